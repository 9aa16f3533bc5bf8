//! One image: a figure with its paint, on a ground, among clutter, in some light.

use super::SIDE;
use super::figure;
use super::paint::{Colour, Paint, contrast, mix, random_colour};
use super::random::Draw;

/// Samples along each side of a pixel; edges are smoothed within a sample too.
const SAMPLES: usize = 2;

/// Half the image, pixels: places are measured from the center.
const HALF: f32 = SIDE as f32 / 2.0;

pub(super) struct Scene {
    class: usize,
    centre: [f32; 2],
    /// From pixels to the figure's own frame, row by row: turn, mirror, stretch.
    to_figure: [f32; 4],
    /// Pixels in a unit of the figure's frame.
    radius: f32,
    rounding: f32,
    figure: Paint,
    ground: Paint,
    /// Brightness of a band along the outline, and the band's width in pixels.
    rim: (f32, f32),
    /// Where the light comes from, and how much it matters to figure and ground.
    light: [f32; 2],
    shading: [f32; 2],
    /// How dark, how far from the figure in pixels, and how soft in pixels.
    shadow: (f32, f32, f32),
    behind: Vec<Speck>,
    before: Vec<Speck>,
    noise: f32,
}

/// A small piece of clutter: a bar with round ends, or a dot if `half_length` is 0.
struct Speck {
    centre: [f32; 2],
    along: [f32; 2],
    half_length: f32,
    half_width: f32,
    colour: Colour,
}

impl Speck {
    fn random(rng: &mut Draw, half_width: [f32; 2]) -> Self {
        Self {
            centre: [rng.between(-HALF, HALF), rng.between(-HALF, HALF)],
            along: rng.direction(),
            half_length: if rng.chance(0.5) { rng.between(1.0, 4.0) } else { 0.0 },
            half_width: rng.between(half_width[0], half_width[1]),
            colour: random_colour(rng, [0.0, 1.0], [0.1, 1.0]),
        }
    }

    fn cover(&self, [x, y]: [f32; 2]) -> f32 {
        let (x, y) = (x - self.centre[0], y - self.centre[1]);
        let along = (x * self.along[0] + y * self.along[1]).clamp(-self.half_length, self.half_length);
        let (x, y) = (x - along * self.along[0], y - along * self.along[1]);
        edge((x * x + y * y).sqrt() - self.half_width)
    }
}

/// Returns how much of a sample lies inside, from the signed distance of its center in pixels.
fn edge(distance: f32) -> f32 {
    (0.5 - distance * SAMPLES as f32).clamp(0.0, 1.0)
}

impl Scene {
    pub(super) fn random(rng: &mut Draw, class: usize) -> Self {
        let radius = rng.between(9.0, 13.0);
        let centre = [rng.between(-3.0, 3.0), rng.between(-3.0, 3.0)];

        let [cos, sin] = rng.lean(0.3);
        let stretch = rng.between(0.88, 1.14);
        let mirror = if rng.chance(0.5) { 1.0 } else { -1.0 };
        let (sx, sy) = (mirror * stretch / radius, 1.0 / (radius * stretch));
        let to_figure = [cos * sx, sin * sx, -sin * sy, cos * sy];

        let (figure, ground) = Self::paints(rng);
        let rim = if rng.chance(0.4) { (rng.between(0.55, 1.3), rng.between(0.8, 1.8)) } else { (1.0, 0.0) };
        let light = rng.direction();
        let shading = [rng.between(0.0, 0.35), rng.between(0.0, 0.25)];
        let shadow = if rng.chance(0.6) {
            (rng.between(0.2, 0.6), rng.between(0.8, 2.5), rng.between(1.0, 3.0))
        } else {
            (0.0, 0.0, 1.0)
        };
        let behind = (0..rng.below(5)).map(|_| Speck::random(rng, [0.6, 1.6])).collect();
        let before = (0..rng.below(3)).map(|_| Speck::random(rng, [0.5, 1.0])).collect();
        Self {
            class,
            centre,
            to_figure,
            radius,
            rounding: rng.between(0.0, 0.07),
            figure,
            ground,
            rim,
            light,
            shading,
            shadow,
            behind,
            before,
            noise: rng.between(0.0, 0.05),
        }
    }

    /// Returns two paints that can be told apart: each figure color from each ground color, the main ones clearly.
    fn paints(rng: &mut Draw) -> (Paint, Paint) {
        loop {
            let figure = random_colour(rng, [0.3, 1.0], [0.25, 1.0]);
            let ground = random_colour(rng, [0.0, 0.8], [0.08, 0.95]);
            let [figure_accent, ground_accent] = [figure, ground].map(|base| {
                let accent = random_colour(rng, [0.0, 1.0], [0.05, 1.0]);
                mix(base, accent, rng.between(0.1, 0.4))
            });
            let apart = contrast(figure, ground) > 0.4
                && [(figure, ground_accent), (figure_accent, ground), (figure_accent, ground_accent)]
                    .iter()
                    .all(|&(f, g)| contrast(f, g) > 0.24);
            if apart {
                return (Paint::random(rng, figure, figure_accent), Paint::random(rng, ground, ground_accent));
            }
        }
    }

    /// Returns the signed distance from the outline in pixels.
    fn distance(&self, [x, y]: [f32; 2]) -> f32 {
        let (x, y) = (x - self.centre[0], y - self.centre[1]);
        let [a, b, c, d] = self.to_figure;
        (figure::distance(self.class, [a * x + b * y, c * x + d * y]) - self.rounding) * self.radius
    }

    /// Fills `image` (3, SIDE, SIDE) and `mask` (SIDE, SIDE): class + 1 where the figure is what one sees, else 0.
    pub(super) fn render(&self, rng: &mut Draw, image: &mut [u8], mask: &mut [u8]) {
        for row in 0..SIDE {
            for column in 0..SIDE {
                let (mut colour, mut cover) = ([0.0; 3], 0.0);
                for sample in 0..SAMPLES * SAMPLES {
                    let offset = |i: usize| (i as f32 + 0.5) / SAMPLES as f32 - HALF;
                    let at = [column as f32 + offset(sample % SAMPLES), row as f32 + offset(sample / SAMPLES)];
                    let (here, covered) = self.look(at);
                    colour = [0, 1, 2].map(|c| colour[c] + here[c]);
                    cover += covered;
                }
                let share = 1.0 / (SAMPLES * SAMPLES) as f32;
                for (channel, sum) in colour.into_iter().enumerate() {
                    let value = sum * share + self.noise * rng.bell();
                    image[(channel * SIDE + row) * SIDE + column] = (value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
                }
                mask[row * SIDE + column] = if cover * share >= 0.5 { self.class as u8 + 1 } else { 0 };
            }
        }
    }

    /// Returns the color at a place, and how much of it is the figure's.
    fn look(&self, at: [f32; 2]) -> (Colour, f32) {
        let distance = self.distance(at);
        let inside = edge(distance);

        let mut colour = [0.0; 3];
        if inside < 1.0 {
            colour = self.ground.at(at);
            for speck in &self.behind {
                colour = mix(colour, speck.colour, speck.cover(at));
            }
            let (darkness, far, soft) = self.shadow;
            let mut light = 1.0 + self.shading[1] * (at[0] * self.light[0] + at[1] * self.light[1]) / HALF;
            if darkness > 0.0 {
                let caster = self.distance([at[0] + far * self.light[0], at[1] + far * self.light[1]]);
                light *= 1.0 - darkness * (0.5 - caster / (2.0 * soft)).clamp(0.0, 1.0);
            }
            colour = colour.map(|value| value * light);
        }
        if inside > 0.0 {
            let toward = [0, 1].map(|axis| (at[axis] - self.centre[axis]) / self.radius);
            let mut light = 1.0 + self.shading[0] * (toward[0] * self.light[0] + toward[1] * self.light[1]);
            let (rim, width) = self.rim;
            if width > 0.0 {
                light *= 1.0 + (rim - 1.0) * edge(-distance - width);
            }
            colour = mix(colour, self.figure.at(at).map(|value| (value * light).min(1.0)), inside);
        }
        let mut cover = inside;
        for speck in &self.before {
            let covered = speck.cover(at);
            colour = mix(colour, speck.colour, covered);
            cover *= 1.0 - covered;
        }
        (colour, cover)
    }
}
