//! RGB ↔ YCbCr in libjpeg's fixed point (16 fraction bits), and its chroma down- and upsampling.

use crate::image::Planes;

/// 8-bit samples, rows of `stride`, both sides whole blocks of 8.
pub(super) struct Plane {
    pub(super) data: Vec<u8>,
    pub(super) stride: usize,
}

impl Plane {
    fn new(width: usize, height: usize) -> Self {
        let stride = width.next_multiple_of(8);
        Self { data: vec![0; stride * height.next_multiple_of(8)], stride }
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.stride..(y + 1) * self.stride]
    }

    fn row_mut(&mut self, y: usize) -> &mut [u8] {
        &mut self.data[y * self.stride..(y + 1) * self.stride]
    }

    /// Repeats row `last` down to the end.
    fn repeat_down(&mut self, last: usize) {
        let (done, rest) = self.data.split_at_mut((last + 1) * self.stride);
        for row in rest.chunks_exact_mut(self.stride) {
            row.copy_from_slice(&done[last * self.stride..]);
        }
    }
}

fn level(value: f32) -> i32 {
    i32::from((value.clamp(0.0, 1.0) * 255.0 + 0.5) as u8)
}

/// The luma plane, and the two chroma planes (if `coloured`) at 1/`across` and 1/`down` of its resolution. Edges are
/// repeated into the padding, in full resolution to the right and in the planes' own downwards, as libjpeg does: the
/// padding shares blocks with what is seen.
pub(super) fn separate(image: &Planes, across: usize, down: usize, coloured: bool) -> (Plane, Vec<Plane>) {
    let size = image.size();
    let (w, h) = (size.width as usize, size.height as usize);
    let mut luma = Plane::new(w, h);
    let planes = if coloured { 2 } else { 0 };
    let mut chroma: Vec<Plane> = (0..planes).map(|_| Plane::new(w.div_ceil(across), h.div_ceil(down))).collect();
    // The rows of chroma in full resolution that one downsampled row is made from.
    let long = chroma.first().map_or(0, |plane| plane.stride * across);
    let mut full = [vec![0u8; long * down], vec![0u8; long * down]];
    for y in 0..h {
        let row = |channel: usize| &image.plane(channel)[y * w..(y + 1) * w];
        let (r, g, b) = (row(0), row(1), row(2));
        let out = luma.row_mut(y);
        for (((out, r), g), b) in out.iter_mut().zip(r).zip(g).zip(b) {
            *out = ((19595 * level(*r) + 38470 * level(*g) + 7471 * level(*b) + 32768) >> 16) as u8;
        }
        let edge = out[w - 1];
        out[w..].fill(edge);
        if !coloured {
            continue;
        }
        let nth = y % down;
        let [cb, cr] = full.each_mut().map(|rows| &mut rows[nth * long..(nth + 1) * long]);
        for ((((cb, cr), r), g), b) in cb.iter_mut().zip(cr.iter_mut()).zip(r).zip(g).zip(b) {
            let (r, g, b) = (level(*r), level(*g), level(*b));
            *cb = ((-11059 * r - 21709 * g + 32768 * b + (128 << 16) + 32767) >> 16) as u8;
            *cr = ((32768 * r - 27439 * g - 5329 * b + (128 << 16) + 32767) >> 16) as u8;
        }
        for row in [cb, cr] {
            let edge = row[w - 1];
            row[w..].fill(edge);
        }
        if nth == down - 1 || y == h - 1 {
            for (rows, plane) in full.iter_mut().zip(&mut chroma) {
                for missing in nth + 1..down {
                    rows.copy_within(nth * long..(nth + 1) * long, missing * long);
                }
                downsample(rows, across, down, plane.row_mut(y / down));
            }
        }
    }
    luma.repeat_down(h - 1);
    for plane in &mut chroma {
        plane.repeat_down((h - 1) / down);
    }
    (luma, chroma)
}

/// Averages of `across`×`down` samples; halves are rounded down and up in turn.
fn downsample(rows: &[u8], across: usize, down: usize, out: &mut [u8]) {
    let (first, second) = rows.split_at(rows.len() / down);
    match (across, down) {
        (2, 2) => {
            for (((out, a), b), bias) in out.iter_mut().zip(pairs(first)).zip(pairs(second)).zip([1, 2].iter().cycle())
            {
                *out = ((sum(a) + sum(b) + bias) >> 2) as u8;
            }
        }
        (2, _) => {
            for ((out, a), bias) in out.iter_mut().zip(pairs(first)).zip([0, 1].iter().cycle()) {
                *out = ((sum(a) + bias) >> 1) as u8;
            }
        }
        _ => out.copy_from_slice(first),
    }
}

fn pairs(row: &[u8]) -> &[[u8; 2]] {
    row.as_chunks::<2>().0
}

fn sum(pair: &[u8; 2]) -> u16 {
    u16::from(pair[0]) + u16::from(pair[1])
}

/// The decoded chroma planes and how they were sampled.
pub(super) struct Chroma<'a> {
    pub(super) cb: &'a Plane,
    pub(super) cr: &'a Plane,
    pub(super) across: usize,
    pub(super) down: usize,
    /// Pixels across the image.
    pub(super) width: usize,
    /// Pixels down the image.
    pub(super) height: usize,
}

impl Chroma<'_> {
    /// Row `y` of `plane` in full resolution. `scratch` holds one row of sums, with a neighbour on either side.
    fn upsample(&self, plane: &Plane, y: usize, scratch: &mut [u16], out: &mut [u8]) {
        let narrow = self.width.div_ceil(self.across);
        let short = self.height.div_ceil(self.down);
        let row = &plane.row(y / self.down)[..narrow];
        if self.across == 1 {
            out.copy_from_slice(row);
            return;
        }
        // libjpeg takes the triangle filter only for planes wider than two samples.
        if narrow <= 2 {
            for (x, out) in out.iter_mut().enumerate() {
                *out = row[x / 2];
            }
            return;
        }
        let sums = &mut scratch[..narrow + 2];
        let (biases, shift) = if self.down == 2 {
            // Three parts of the nearer row, one of the next.
            let at = y / 2;
            let next = if y.is_multiple_of(2) { at.saturating_sub(1) } else { (at + 1).min(short - 1) };
            for ((sum, near), far) in sums[1..].iter_mut().zip(row).zip(plane.row(next)) {
                *sum = 3 * u16::from(*near) + u16::from(*far);
            }
            ([8, 7], 4)
        } else {
            for (sum, near) in sums[1..].iter_mut().zip(row) {
                *sum = u16::from(*near);
            }
            ([1, 2], 2)
        };
        sums[0] = sums[1];
        sums[narrow + 1] = sums[narrow];
        let (twos, last) = out.as_chunks_mut::<2>();
        for (two, near) in twos.iter_mut().zip(sums.windows(3)) {
            let own = 3 * near[1];
            *two = [((own + near[0] + biases[0]) >> shift) as u8, ((own + near[2] + biases[1]) >> shift) as u8];
        }
        if let [last] = last {
            *last = ((3 * sums[narrow] + sums[narrow - 1] + biases[0]) >> shift) as u8;
        }
    }
}

/// YCbCr → RGB into `image`.
pub(super) fn join(image: &mut Planes, luma: &Plane, chroma: &Chroma<'_>) {
    let w = chroma.width;
    let mut scratch = vec![0u16; w + 2];
    let (mut cb, mut cr) = (vec![0u8; w], vec![0u8; w]);
    let pixels = w * chroma.height;
    let (red, rest) = image.data_mut().split_at_mut(pixels);
    let (green, blue) = rest.split_at_mut(pixels);
    let rows = red.chunks_exact_mut(w).zip(green.chunks_exact_mut(w)).zip(blue.chunks_exact_mut(w));
    for (y, ((r, g), b)) in rows.enumerate() {
        chroma.upsample(chroma.cb, y, &mut scratch, &mut cb);
        chroma.upsample(chroma.cr, y, &mut scratch, &mut cr);
        let inputs = luma.row(y).iter().zip(&cb).zip(&cr);
        for ((((luma, cb), cr), r), (g, b)) in inputs.zip(r).zip(g.iter_mut().zip(b)) {
            let y = i32::from(*luma);
            let (cb, cr) = (i32::from(*cb) - 128, i32::from(*cr) - 128);
            // Factors beyond 16 bits are split: 91881 = 65536 + 26345, 116130 = 131072 − 14942, −46802 = 18734 − 65536.
            *r = unit(y + cr + ((26345 * cr + 32768) >> 16));
            *g = unit(y - cr + ((-22554 * cb + 18734 * cr + 32768) >> 16));
            *b = unit(y + 2 * cb + ((-14942 * cb + 32768) >> 16));
        }
    }
}

/// Luma into all three planes of `image`.
pub(super) fn spread(image: &mut Planes, luma: &Plane) {
    let w = image.size().width as usize;
    for channel in 0..3 {
        for (y, row) in image.plane_mut(channel).chunks_exact_mut(w).enumerate() {
            for (value, level) in row.iter_mut().zip(luma.row(y)) {
                *value = unit(i32::from(*level));
            }
        }
    }
}

fn unit(level: i32) -> f32 {
    level.clamp(0, 255) as f32 / 255.0
}
