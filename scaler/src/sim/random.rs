//! Random numbers from a seed, the same everywhere.

/// The generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    /// A number from an exponential distribution with mean 1.
    pub(crate) fn exponential(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^= x >> 31;
        -(((x >> 11) as f64 + 0.5) / (1_u64 << 53) as f64).ln()
    }
}
