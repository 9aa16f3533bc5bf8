//! What figure and ground are painted with: two colors and a pattern that mixes them.

use super::random::Draw;

/// Red, green, blue in `[0, 1]`.
pub(super) type Colour = [f32; 3];

pub(super) fn mix(from: Colour, to: Colour, amount: f32) -> Colour {
    [0, 1, 2].map(|c| from[c] + (to[c] - from[c]) * amount)
}

/// Returns how different two colors look: brightness counts most.
pub(super) fn contrast(one: Colour, other: Colour) -> f32 {
    let [r, g, b] = [0, 1, 2].map(|c| one[c] - other[c]);
    let brightness = 0.3 * r + 0.59 * g + 0.11 * b;
    (brightness * brightness * 2.0 + (r * r + g * g + b * b) * 0.2).sqrt()
}

/// Returns a random hue, with saturation and value in the given ranges.
pub(super) fn random_colour(rng: &mut Draw, saturation: [f32; 2], value: [f32; 2]) -> Colour {
    let (hue, saturation) = (rng.between(0.0, 6.0), rng.between(saturation[0], saturation[1]));
    let value = rng.between(value[0], value[1]);
    // Each channel is a trapezoid over the hue circle, shifted by a third of a turn (2 of 6).
    [5.0, 3.0, 1.0].map(|shift| {
        let k = hue + shift - if hue + shift >= 6.0 { 6.0 } else { 0.0 };
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

/// How the second color is laid over the first.
enum Pattern {
    Plain,
    /// From one color to the other across `width` pixels.
    Gradient {
        across: [f32; 2],
        width: f32,
    },
    /// `period` in pixels, the share of the first color, and how hard the edges are.
    Stripes {
        across: [f32; 2],
        period: f32,
        share: f32,
        hardness: f32,
    },
    Checks {
        across: [f32; 2],
        period: f32,
    },
    Dots {
        across: [f32; 2],
        period: f32,
        radius: f32,
    },
    /// Two octaves of value noise; cells of `period` pixels.
    Cloud {
        lattice: Box<[f32; LATTICE * LATTICE]>,
        period: f32,
    },
}

const LATTICE: usize = 16;

/// Two colors, a pattern, and where the pattern starts.
pub(super) struct Paint {
    pub(super) first: Colour,
    pub(super) second: Colour,
    pattern: Pattern,
    origin: [f32; 2],
}

impl Paint {
    pub(super) fn random(rng: &mut Draw, first: Colour, second: Colour) -> Self {
        let across = rng.direction();
        let pattern = match rng.below(8) {
            0..=2 => Pattern::Plain,
            3 => Pattern::Gradient { across, width: rng.between(18.0, 36.0) },
            4 => Pattern::Stripes {
                across,
                period: rng.between(3.0, 9.0),
                share: rng.between(0.35, 0.65),
                hardness: rng.between(1.5, 8.0),
            },
            5 => Pattern::Checks { across, period: rng.between(3.5, 10.0) },
            6 => {
                let period = rng.between(4.0, 8.0);
                Pattern::Dots { across, period, radius: period * rng.between(0.2, 0.38) }
            }
            _ => {
                let mut lattice = Box::new([0.0; LATTICE * LATTICE]);
                lattice.fill_with(|| rng.unit());
                Pattern::Cloud { lattice, period: rng.between(3.0, 9.0) }
            }
        };
        let origin = [rng.between(-16.0, 16.0), rng.between(-16.0, 16.0)];
        Self { first, second, pattern, origin }
    }

    /// Returns the color at a place, in pixels from the image's center.
    pub(super) fn at(&self, [x, y]: [f32; 2]) -> Colour {
        mix(self.first, self.second, self.amount([x, y]))
    }

    fn amount(&self, [x, y]: [f32; 2]) -> f32 {
        let turn = |across: [f32; 2]| {
            let (x, y) = (x + self.origin[0], y + self.origin[1]);
            [x * across[0] + y * across[1], y * across[0] - x * across[1]]
        };
        match self.pattern {
            Pattern::Plain => 0.0,
            // Not from the origin: a gradient that lies outside of the image would be plain.
            Pattern::Gradient { across, width } => (0.5 + (x * across[0] + y * across[1]) / width).clamp(0.0, 1.0),
            Pattern::Stripes { across, period, share, hardness } => {
                let [u, _] = turn(across);
                ((triangle(u / period) - share) * hardness + 0.5).clamp(0.0, 1.0)
            }
            Pattern::Checks { across, period } => {
                let [u, v] = turn(across);
                let product = (triangle(u / period) - 0.5) * (triangle(v / period) - 0.5);
                (0.5 + product * 2.5 * period).clamp(0.0, 1.0)
            }
            Pattern::Dots { across, period, radius } => {
                let [u, v] = turn(across).map(|t| (t / period - (t / period).floor() - 0.5) * period);
                (radius - (u * u + v * v).sqrt() + 0.5).clamp(0.0, 1.0)
            }
            Pattern::Cloud { ref lattice, period } => {
                let (u, v) = ((x + 64.0) / period, (y + 64.0) / period);
                let noise = 0.65 * cloud(lattice, u, v) + 0.35 * cloud(lattice, u * 2.0 + 5.0, v * 2.0 + 3.0);
                ((noise - 0.5) * 1.8 + 0.5).clamp(0.0, 1.0)
            }
        }
    }
}

/// Returns a wave of period 1 that rises from 0 to 1 and falls again.
fn triangle(t: f32) -> f32 {
    1.0 - (2.0 * (t - t.floor()) - 1.0).abs()
}

/// Returns smoothly interpolated lattice values; the lattice repeats.
fn cloud(lattice: &[f32; LATTICE * LATTICE], u: f32, v: f32) -> f32 {
    let (i, j) = (u.floor(), v.floor());
    let [s, t] = [u - i, v - j].map(|f| f * f * (3.0 - 2.0 * f));
    let at = |i: usize, j: usize| lattice[(j % LATTICE) * LATTICE + i % LATTICE];
    let (i, j) = (i as usize, j as usize);
    let upper = at(i, j) + (at(i + 1, j) - at(i, j)) * s;
    let lower = at(i, j + 1) + (at(i + 1, j + 1) - at(i, j + 1)) * s;
    upper + (lower - upper) * t
}
