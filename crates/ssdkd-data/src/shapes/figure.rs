//! The outlines, as signed distances: negative inside, positive outside, in units of the figure's radius.
//!
//! A distance rather than an inside test, because one number then gives the anti-aliased edge, the rim and the soft shadow.
//! y points down, as in the image.

type Point = [f32; 2];

const TRIANGLE: [Point; 3] = [[0.0, -1.08], [0.935, 0.54], [-0.935, 0.54]];

/// Five points, outer radius 1.1, inner radius 0.46.
const STAR: [Point; 10] = [
    [0.0, -1.1],
    [0.270_38, -0.372_15],
    [1.046_16, -0.339_92],
    [0.437_49, 0.142_15],
    [0.646_56, 0.889_92],
    [0.0, 0.46],
    [-0.646_56, 0.889_92],
    [-0.437_49, 0.142_15],
    [-1.046_16, -0.339_92],
    [-0.270_38, -0.372_15],
];

const ARROW: [Point; 7] =
    [[0.0, -1.1], [0.82, -0.12], [0.29, -0.12], [0.29, 1.02], [-0.29, 1.02], [-0.29, -0.12], [-0.82, -0.12]];

const BOLT: [Point; 6] = [[0.34, -1.15], [-0.66, 0.22], [-0.06, 0.22], [-0.34, 1.15], [0.66, -0.26], [0.06, -0.26]];

/// Returns the signed distance of `at` from the outline of `class`, whose order is [`CLASS_NAMES`](super::CLASS_NAMES)'.
pub(super) fn distance(class: usize, at: Point) -> f32 {
    match class {
        0 => length(at) - 0.9,
        1 => (length(at) - 0.74).abs() - 0.23,
        2 => rectangle(at, 0.8, 0.8),
        3 => polygon(&TRIANGLE, at),
        4 => polygon(&STAR, at),
        5 => rectangle(at, 1.0, 0.3).min(rectangle(at, 0.3, 1.0)),
        6 => (length(at) - 0.98).max(0.8 - length([at[0] - 0.5, at[1]])),
        7 => heart(at),
        8 => polygon(&ARROW, at),
        _ => polygon(&BOLT, at),
    }
}

fn length([x, y]: Point) -> f32 {
    (x * x + y * y).sqrt()
}

fn rectangle([x, y]: Point, half_width: f32, half_height: f32) -> f32 {
    let (dx, dy) = (x.abs() - half_width, y.abs() - half_height);
    length([dx.max(0.0), dy.max(0.0)]) + dx.max(dy).min(0.0)
}

/// Returns a square on its corner with a half disc on each of its two upper sides.
fn heart([x, y]: Point) -> f32 {
    const HALF_DIAGONAL: f32 = 0.92;
    const RADIUS: f32 = HALF_DIAGONAL * std::f32::consts::FRAC_1_SQRT_2;
    let (x, y) = (x.abs(), y - 0.08);
    let square = (x + y.abs() - HALF_DIAGONAL) * std::f32::consts::FRAC_1_SQRT_2;
    square.min(length([x - HALF_DIAGONAL / 2.0, y + HALF_DIAGONAL / 2.0]) - RADIUS)
}

/// Returns the distance from the nearest edge; its sign by counting the edges that cross the ray to the right.
fn polygon(corners: &[Point], [x, y]: Point) -> f32 {
    let mut nearest = f32::MAX;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        let (ex, ey) = (previous[0] - corner[0], previous[1] - corner[1]);
        let (wx, wy) = (x - corner[0], y - corner[1]);
        let along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        let (bx, by) = (wx - ex * along, wy - ey * along);
        nearest = nearest.min(bx * bx + by * by);
        if (corner[1] > y) != (previous[1] > y) && wx * ey.abs() < ex * wy * ey.signum() {
            inside = !inside;
        }
        previous = corner;
    }
    if inside { -nearest.sqrt() } else { nearest.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::CLASS_NAMES;

    #[track_caller]
    fn check(class: usize, inside: &[Point], outside: &[Point]) {
        for &at in inside {
            assert!(distance(class, at) < 0.0, "{at:?} is inside a {}", CLASS_NAMES[class]);
        }
        for &at in outside {
            assert!(distance(class, at) > 0.0, "{at:?} is outside a {}", CLASS_NAMES[class]);
        }
    }

    #[test]
    fn inside_is_inside() {
        check(0, &[[0.0, 0.0], [0.6, 0.6]], &[[0.7, 0.7], [0.0, 1.0]]);
        check(1, &[[0.7, 0.0], [0.0, -0.9]], &[[0.0, 0.0], [0.3, 0.3], [0.0, 1.0]]);
        check(2, &[[0.7, 0.7], [0.0, 0.0]], &[[0.9, 0.0], [0.7, 0.9]]);
        check(3, &[[0.0, 0.0], [0.0, -0.9], [0.8, 0.5]], &[[0.6, -0.3], [0.0, 0.6]]);
        check(4, &[[0.0, 0.0], [0.0, -1.0], [0.6, 0.8]], &[[0.5, -0.6], [0.0, 0.6], [0.0, 1.0]]);
        check(5, &[[0.0, 0.9], [0.9, 0.0]], &[[0.5, 0.5], [-0.4, 0.4]]);
        check(6, &[[-0.6, 0.0], [0.2, 0.9]], &[[0.0, 0.0], [0.9, 0.0]]);
        check(7, &[[0.0, 0.9], [0.5, -0.6], [0.0, 0.0]], &[[0.0, -0.9], [0.9, 0.6], [0.0, 1.1]]);
        check(8, &[[0.0, -1.0], [0.2, 0.9]], &[[0.5, 0.5], [0.7, -0.8]]);
        check(9, &[[0.2, -0.9], [-0.2, 0.9], [0.0, 0.0]], &[[0.6, -0.9], [-0.6, 0.9]]);
    }

    /// What the anti-aliasing relies on: the distance never changes faster than the place does.
    #[test]
    fn a_distance_is_one_lipschitz() {
        let places = (-30..30).flat_map(|i| (-30..30).map(move |j| [i as f32 * 0.05 + 0.01, j as f32 * 0.05 + 0.02]));
        for [x, y] in places {
            for (class, name) in CLASS_NAMES.iter().enumerate() {
                let step = (distance(class, [x + 0.03, y + 0.04]) - distance(class, [x, y])).abs();
                assert!(step <= 0.0501, "{name} jumps by {step} at {x} {y}");
            }
        }
    }
}
