use super::*;
use proptest::prelude::*;

fn value(text: &str) -> Value {
    text.parse().expect("a value")
}

fn check(left: &str, function: Function, right: &str, expect: &str) {
    let limits = Limits { digits: 40, ..Limits::default() };
    let found = match apply(function, &value(left), &value(right), &limits) {
        Ok(value) => value.to_string(),
        Err(error) => error.as_str().to_owned(),
    };
    assert_eq!(found, expect, "{left} {} {right}", function.symbol());
}

#[test]
fn arithmetic_is_exact() {
    use Function::{Add, Div, Mul, Sub};
    check("1/3", Add, "2/3", "1");
    check("1/3", Sub, "1/3", "0");
    check("0.1", Add, "0.2", "0.3");
    check("2/3", Mul, "3/2", "1");
    check("1", Div, "3", "1/3");
    check("-1", Div, "-4", "0.25");
    check("6", Div, "-4", "-1.5");
    check("0", Div, "-4", "0");
    check("1", Div, "0", "division-by-zero");
    check("0", Div, "0", "division-by-zero");
    check("9223372036854775807", Add, "1", "9223372036854775808");
    check("9223372036854775808", Sub, "1", "9223372036854775807");
    check("-9223372036854775808", Div, "-1", "9223372036854775808");
    check("-9223372036854775808", Mul, "-1", "9223372036854775808");
    check(
        "1",
        Div,
        "-9223372036854775808",
        "-0.000000000000000000108420217248550443400745280086994171142578125",
    );
    check("0", Sub, "-9223372036854775808", "9223372036854775808");
    check(
        "1/9223372036854775807",
        Add,
        "1/9223372036854775806",
        "18446744073709551613/85070591730234615838173535747377725442",
    );
    check("9999999999999999999999999999999999999999", Add, "0", "9999999999999999999999999999999999999999");
    check("9999999999999999999999999999999999999999", Add, "1", "overflow");
    check("-9999999999999999999999999999999999999999", Sub, "1", "overflow");
    check("1e-39", Div, "10", "overflow");
}

/// A value as it is printed, or its error as `kind start..end`.
fn check_text(text: &str, expect: &str) {
    let found = match text.parse::<Value>() {
        Ok(value) => value.to_string(),
        Err(error) => format!("{} {:?}", error.as_str(), error.span()),
    };
    assert_eq!(found, expect, "{text:?}");
}

#[test]
fn values_print_as_short_as_they_can() {
    check_text("6/3", "2");
    check_text("-6/4", "-1.5");
    check_text("1/8", "0.125");
    check_text("-1/80", "-0.0125");
    check_text("1/7", "1/7");
    check_text("-22/7", "-22/7");
    check_text("1e-20", "0.00000000000000000001");
    check_text(" +1 / -4 ", "-0.25");
}

#[test]
fn texts_that_are_no_values_are_refused_where_they_go_wrong() {
    check_text("", "malformed-number 0..0");
    check_text("- 5", "malformed-number 1..2");
    check_text("é", "malformed-number 0..2");
    check_text("1 2", "malformed-number 2..3");
    check_text("1/2/3", "malformed-number 3..5");
    check_text("1/", "malformed-number 2..2");
    check_text("1/0", "division-by-zero 1..2");
    check_text("1e10000", "too-many-digits 0..7");
}

#[test]
fn decimals_round_half_to_even() {
    for (text, places, expect) in [
        ("1/3", 5, "0.33333"),
        ("2/3", 5, "0.66667"),
        ("2.5", 0, "2"),
        ("3.5", 0, "4"),
        ("-2.5", 0, "-2"),
        ("-3.5", 0, "-4"),
        ("0.125", 2, "0.12"),
        ("0.375", 2, "0.38"),
        ("0.5", 0, "0"),
        ("-0.5", 0, "0"),
        ("99.995", 2, "100.00"),
        ("16", 3, "16.000"),
    ] {
        assert_eq!(value(text).to_decimal(places), expect, "{text} to {places}");
    }
}

#[test]
fn a_value_is_two_words() {
    assert_eq!(size_of::<Value>(), 16);
}

#[test]
fn a_digit_limit_is_exact_at_the_power_of_ten() {
    for digits in [1usize, 17, 18, 19, 20, 100, 1000] {
        let limits = Limits { digits, ..Limits::default() };
        let nines = "9".repeat(digits);
        assert!(Value::parse(&nines, &limits).is_ok());
        assert!(Value::parse(&format!("1/{nines}"), &limits).is_ok());
        let power = format!("1{}", "0".repeat(digits));
        assert!(Value::parse(&power, &limits).is_err());
        assert!(Value::parse(&format!("-{power}"), &limits).is_err());
    }
}

#[test]
fn bytes_that_are_not_canonical_are_refused() {
    let limits = Limits::default();
    for bytes in [
        &[][..],
        &[4, 1],                     // no such tag
        &[1],                        // minus zero
        &[0, 0],                     // a leading zero
        &[2, 0, 0, 0, 1, 1],         // no denominator
        &[2, 0, 0, 0, 1, 1, 1],      // over one
        &[2, 0, 0, 0, 1, 2, 4],      // not in lowest terms
        &[2, 0, 0, 0, 0, 4],         // zero over four
        &[2, 0, 0, 0, 9, 1, 3],      // cut short
        &[2, 255, 255, 255, 255, 1], // as long as never
        &[2, 0, 0, 0, 2, 0, 1, 3],   // a leading zero
    ] {
        assert_eq!(Value::from_bytes(bytes, &limits), Err(WireError::NotCanonical), "{bytes:?}");
    }
    let long = vec![1u8; 20_000];
    assert!(matches!(Value::from_bytes(&long, &limits), Err(WireError::TooManyDigits { .. })));
}

#[test]
fn the_longest_value_there_is_is_read_from_its_bytes() {
    let limits = Limits::default();
    let parse = |text: String| Value::parse(&text, &limits).expect("within the limits");
    let (nines, power) = (parse("9".repeat(10_000)), parse(format!("1{}", "0".repeat(9_999))));
    let longest = apply(Function::Div, &nines, &power, &limits).expect("within the limits");
    for value in [longest.negated(), longest, nines] {
        assert_eq!(Value::from_bytes(&value.to_bytes(), &limits), Ok(value));
    }
}

#[test]
fn bytes_are_frozen() {
    for (text, bytes) in [
        ("0", &[0][..]),
        ("1", &[0, 1]),
        ("-256", &[1, 1, 0]),
        ("0.5", &[2, 0, 0, 0, 1, 1, 2]),
        ("-8/3", &[3, 0, 0, 0, 1, 8, 3]),
    ] {
        assert_eq!(value(text).to_bytes(), bytes, "{text}");
    }
}

/// Small and big, and about the borders between them.
fn any_value() -> impl Strategy<Value = Value> {
    let integer = prop_oneof![
        any::<i8>().prop_map(i128::from),
        any::<i64>().prop_map(i128::from),
        (-2i128..=2).prop_map(|n| n + i128::from(i64::MAX)),
        (-2i128..=2).prop_map(|n| n + i128::from(i64::MIN)),
        any::<i128>(),
    ];
    (integer.clone(), integer).prop_map(|(numerator, denominator)| {
        let denominator = UBig::from(denominator.unsigned_abs().max(1));
        Value::from_rational(RBig::from_parts(IBig::from(numerator), denominator))
    })
}

proptest! {
    #[test]
    fn small_and_big_arithmetic_agree(left in any_value(), right in any_value()) {
        for function in Function::ALL {
            let found = apply(function, &left, &right, &Limits::default());
            if function == Function::Div && right.is_zero() {
                prop_assert_eq!(found, Err(NodeError::DivisionByZero));
            } else {
                prop_assert_eq!(found, Ok(big(function, &left, &right)));
            }
        }
        prop_assert_eq!(left.cmp(&right), left.to_rational().cmp(&right.to_rational()));
        prop_assert_eq!(left.negated().to_rational(), -left.to_rational());
    }

    #[test]
    fn what_is_printed_or_encoded_is_read_again(value in any_value()) {
        prop_assert_eq!(value.to_string().parse::<Value>(), Ok(value.clone()));
        prop_assert_eq!(Value::from_bytes(&value.to_bytes(), &Limits::default()), Ok(value.clone()));
        prop_assert_eq!(value.is_negative(), value.to_string().starts_with('-'));
    }

    #[test]
    fn bytes_that_are_read_are_written_the_same(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        if let Ok(value) = Value::from_bytes(&bytes, &Limits::default()) {
            prop_assert_eq!(value.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_decimal_is_within_half_a_unit(value in any_value(), places in 0usize..30) {
        let decimal: Value = value.to_decimal(places).parse().expect("a decimal");
        let off = decimal.to_rational() - value.to_rational();
        let unit = RBig::from_parts(IBig::from(1), UBig::from(10u8).pow(places));
        let twice = off.clone() + off;
        prop_assert!(twice <= unit && -twice <= unit);
    }
}

#[test]
fn floats_are_the_nearest() {
    for text in [
        "0",
        "1",
        "-1",
        "0.1",
        "1e22",
        "1e23",
        "123456789012345678",
        "-9223372036854775808",
        "9007199254740993",
        "9007199254740995",
        "0.30000000000000004",
        "1.7976931348623157e308",
        "1.7976931348623159e308",
        "1e309",
        "1e-400",
        "2.2250738585072014e-308",
        "2.2250738585072011e-308",
        "5e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324",
        "3.141592653589793238462643383279",
        "0.000000000000000000000000000000000000000000000001e-280",
    ] {
        let unlimited = Limits { digits: 100_000, ..Limits::default() };
        let value = Value::parse(text, &unlimited).expect("a value");
        assert_eq!(value.to_f64().to_bits(), text.parse::<f64>().expect("a float").to_bits(), "{text}");
    }
}

proptest! {
    #[test]
    fn a_decimal_is_the_float_that_the_standard_library_reads(
        digits in "[1-9][0-9]{0,25}", exponent in -345i32..310, negative in any::<bool>(),
    ) {
        let text = format!("{}{digits}e{exponent}", if negative { "-" } else { "" });
        let float: f64 = text.parse().expect("a float");
        prop_assert_eq!(value(&text).to_f64().to_bits(), float.to_bits(), "{}", text);
    }

    #[test]
    fn a_float_is_itself(bits in any::<u64>()) {
        let float = f64::from_bits(bits);
        prop_assume!(float.is_finite() && float.to_bits() != (-0.0f64).to_bits());
        prop_assert_eq!(value(&format!("{float:e}")).to_f64().to_bits(), float.to_bits());
    }
}
