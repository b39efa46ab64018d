//! Refuses to run where the processor lacks what the binary was built for.
//!
//! A binary built with `target-cpu=native` dies from an illegal instruction on a lesser processor;
//! this says which one it needs instead. `is_x86_feature_detected!` cannot be asked: for a feature
//! that the build already requires it answers without looking. So this asks `cpuid`.
//!
//! Absent on purpose: features that no code of this kind is compiled to (AMX, half floats), and
//! other architectures, where builds for one processor are rare.

/// Says what this processor lacks of what the binary was built for.
///
/// # Errors
/// One sentence for a person.
pub fn check() -> Result<(), String> {
    #[cfg(target_arch = "x86_64")]
    {
        let missing =
            x86::missing(x86::ALL.iter().filter(|feature| feature.is_built_for), core::arch::x86_64::__cpuid_count);
        if !missing.is_empty() {
            return Err(format!(
                "this binary was built for a processor with {}, which this one lacks: \
                 build it here, or with RUSTFLAGS=-Ctarget-cpu=x86-64-v2",
                missing.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::CpuidResult;

    /// A register of `cpuid`'s answer.
    #[derive(Clone, Copy)]
    enum Register {
        B,
        C,
    }
    use Register::{B, C};

    /// A feature and the bit that tells of it.
    pub(super) struct Feature {
        name: &'static str,
        leaf: u32,
        register: Register,
        bit: u32,
        /// Whether the compiler was allowed to use it.
        pub(super) is_built_for: bool,
    }

    const EXTENDED: u32 = 0x8000_0001;

    macro_rules! features {
        ($($name:tt: $leaf:expr, $register:ident, $bit:literal;)+) => {
            /// Every feature looked at.
            pub(super) const ALL: &[Feature] = &[$(Feature {
                name: $name,
                leaf: $leaf,
                register: $register,
                bit: $bit,
                is_built_for: cfg!(target_feature = $name),
            }),+];
        };
    }

    // Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID.
    features! {
        "sse3": 1, C, 0;
        "pclmulqdq": 1, C, 1;
        "ssse3": 1, C, 9;
        "fma": 1, C, 12;
        "cmpxchg16b": 1, C, 13;
        "sse4.1": 1, C, 19;
        "sse4.2": 1, C, 20;
        "movbe": 1, C, 22;
        "popcnt": 1, C, 23;
        "aes": 1, C, 25;
        "xsave": 1, C, 26;
        "avx": 1, C, 28;
        "f16c": 1, C, 29;
        "bmi1": 7, B, 3;
        "avx2": 7, B, 5;
        "bmi2": 7, B, 8;
        "avx512f": 7, B, 16;
        "avx512dq": 7, B, 17;
        "adx": 7, B, 19;
        "avx512ifma": 7, B, 21;
        "avx512cd": 7, B, 28;
        "sha": 7, B, 29;
        "avx512bw": 7, B, 30;
        "avx512vl": 7, B, 31;
        "avx512vbmi": 7, C, 1;
        "avx512vbmi2": 7, C, 6;
        "gfni": 7, C, 8;
        "vaes": 7, C, 9;
        "vpclmulqdq": 7, C, 10;
        "avx512vnni": 7, C, 11;
        "avx512bitalg": 7, C, 12;
        "avx512vpopcntdq": 7, C, 14;
        "lzcnt": EXTENDED, C, 5;
    }

    /// The names of those of `needed` that `cpuid` does not tell of.
    pub(super) fn missing<'a>(
        needed: impl IntoIterator<Item = &'a Feature>,
        cpuid: impl Fn(u32, u32) -> CpuidResult,
    ) -> Vec<&'static str> {
        // A leaf past the highest one answers with the bits of another.
        let has_leaf = |leaf: u32| leaf <= cpuid(leaf & 0x8000_0000, 0).eax;
        let is_missing = |feature: &&Feature| {
            let answer = cpuid(feature.leaf, 0);
            let register = match feature.register {
                B => answer.ebx,
                C => answer.ecx,
            };
            !has_leaf(feature.leaf) || register >> feature.bit & 1 == 0
        };
        needed.into_iter().filter(is_missing).map(|feature| feature.name).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::{ALL, CpuidResult, missing};

        const fn answer(eax: u32, bits: u32) -> CpuidResult {
            CpuidResult { eax, ebx: bits, ecx: bits, edx: bits }
        }

        #[test]
        fn a_processor_with_everything_lacks_nothing() {
            assert!(missing(ALL, |_, _| answer(u32::MAX, u32::MAX)).is_empty());
        }

        #[test]
        fn a_processor_with_nothing_lacks_everything() {
            assert_eq!(missing(ALL, |_, _| answer(u32::MAX, 0)).len(), ALL.len());
        }

        #[test]
        fn bits_of_a_leaf_that_is_not_there_do_not_count() {
            let missing = missing(ALL, |_, _| answer(1, u32::MAX));
            assert!(missing.contains(&"avx2") && !missing.contains(&"avx"));
        }

        #[test]
        fn cpuid_and_the_standard_library_agree() {
            let missing = missing(ALL, core::arch::x86_64::__cpuid_count);
            assert_eq!(!missing.contains(&"sse4.2"), std::is_x86_feature_detected!("sse4.2"));
            assert_eq!(!missing.contains(&"avx2"), std::is_x86_feature_detected!("avx2"));
            assert_eq!(!missing.contains(&"adx"), std::is_x86_feature_detected!("adx"));
            assert_eq!(!missing.contains(&"avx512ifma"), std::is_x86_feature_detected!("avx512ifma"));
            assert_eq!(!missing.contains(&"lzcnt"), std::is_x86_feature_detected!("lzcnt"));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_test_that_runs_here_may_run_here() {
        assert_eq!(super::check(), Ok(()));
    }
}
