//! Times, counts and sizes as people write them.

/// What is shown for a number that is none.
const NOTHING: &str = "–";

/// Microseconds: `41 µs`, `0.41 ms`, `20 s`, `3 h`; three digits that count.
pub(super) fn duration(us: f64) -> String {
    if !us.is_finite() {
        return NOTHING.to_owned();
    }
    let sign = if us < 0.0 { "−" } else { "" };
    let (value, unit) = match us.abs() {
        0.0 => (0.0, "ms"),
        us if us < 100.0 => (us, "µs"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us if us < 6e8 => (us / 1e6, "s"),
        us if us < 3.6e10 => (us / 6e7, "min"),
        us => (us / 3.6e9, "h"),
    };
    format!("{sign}{} {unit}", digits(value))
}

/// A time that may be absent.
pub(super) fn duration_if(us: Option<i64>) -> String {
    us.map_or_else(|| NOTHING.to_owned(), |us| duration(us as f64))
}

/// `10,000`.
pub(super) fn count(number: u64) -> String {
    let plain = number.to_string();
    let mut text = String::new();
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes: `512 B`, `38 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{} {unit}", digits(value))
}

/// A number with three digits that count; from 1000 on, whole.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => NOTHING.to_owned(),
        0.0..1000.0 => digits(value),
        1000.0..1e15 => {
            let sign = if value < 0.0 { "−" } else { "" };
            format!("{sign}{}", count(value.abs().round() as u64))
        }
        _ => format!("{value:.2e}"),
    }
}

/// `0.83×`.
pub(super) fn ratio(value: f64) -> String {
    match value.abs() < 1000.0 {
        true => format!("{value:.2}×"),
        false => format!("{}×", number(value)),
    }
}

/// So many of something: `1 request`, `12 requests`.
pub(super) fn so_many(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        0.0 => 0,
        size if size < 0.095 => 4,
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_with_the_unit_that_fits() {
        let cases = [
            (0.0, "0 ms"),
            (0.25, "0.25 µs"),
            (41.0, "41 µs"),
            (412.0, "0.41 ms"),
            (4_120.0, "4.12 ms"),
            (99_960.0, "100 ms"),
            (20e6, "20 s"),
            (-1500.0, "−1.5 ms"),
            (1.2e9, "20 min"),
            (f64::NAN, "–"),
            (f64::INFINITY, "–"),
        ];
        for (us, text) in cases {
            assert_eq!(duration(us), text);
        }
        assert_eq!(duration(i64::MIN as f64), "−2562047788 h");
        assert_eq!(duration_if(None), "–");
    }

    #[test]
    fn counts_and_sizes_are_legible() {
        assert_eq!(
            [count(0), count(999), count(10_000), count(u64::MAX)].join(" "),
            "0 999 10,000 18,446,744,073,709,551,615"
        );
        assert_eq!([bytes(0), bytes(512), bytes(40_000_000)].join(" "), "0 B 512 B 38.1 MiB");
        assert_eq!([number(0.5), number(12_345.6), number(f64::NAN)].join(" "), "0.5 12,346 –");
        assert_eq!(
            [so_many(1, "gate", "gates"), so_many(2000, "gate", "gates")].join(", "),
            "1 gate, 2,000 gates"
        );
    }
}
