#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ssdkd_tests::readers::pt2(bytes));
