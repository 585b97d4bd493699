//! Times in revocation lists (RFC 5280, section 5.1.2.4): UTCTime and GeneralizedTime, to the second, in UTC.

use super::der::Fault;
use super::der::GENERALIZED_TIME;
use super::der::UTC_TIME;
use super::der::Value;
use crate::clock::Timestamp;

/// Whether a tag is that of a time.
pub(super) fn is_time(tag: Option<u8>) -> bool {
    matches!(tag, Some(UTC_TIME | GENERALIZED_TIME))
}

/// Reads `YYMMDDhhmmssZ` (1950 to 2049) or `YYYYMMDDhhmmssZ`. RFC 5280 wants the shorter one until 2049; the longer
/// one says nothing else, so it is read for any year.
#[inline]
pub(super) fn read(value: Value<'_>) -> Result<Timestamp, Fault> {
    let is_form = matches!((value.tag, value.body.len()), (UTC_TIME, 13) | (GENERALIZED_TIME, 15));
    let at = if is_form { of(value.body) } else { None };
    at.ok_or_else(|| value.fault("not a time of the form YYMMDDhhmmssZ or YYYYMMDDhhmmssZ"))
}

/// The time of either form: their lengths differ.
#[inline]
pub(super) fn of(text: &[u8]) -> Option<Timestamp> {
    let (year, rest) = match *text {
        [a, b, ref rest @ ..] if rest.len() == 11 => {
            let year = pair(a, b)?;
            (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
        }
        [a, b, c, d, ref rest @ ..] => (pair(a, b)? * 100 + pair(c, d)?, rest),
        _ => return None,
    };
    let &[a, b, c, d, e, f, g, h, i, j, b'Z'] = rest else {
        return None;
    };
    let (month, day) = (pair(a, b)?, pair(c, d)?);
    let (hour, minute, second) = (pair(e, f)?, pair(g, h)?, pair(i, j)?);
    let is_clock = hour < 24 && minute < 60 && second < 60;
    if !is_clock || !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) {
        return None;
    }
    Some(Timestamp::from_secs(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second))
}

#[inline]
fn pair(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    if tens < 10 && ones < 10 { Some(i64::from(tens * 10 + ones)) } else { None }
}

#[inline]
fn days_of(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the Unix epoch, in the proleptic Gregorian calendar: years are counted from March, so that the leap day
/// is the last of its year.
#[inline]
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::super::der::Reader;
    use super::*;
    use time::Date;
    use time::Month;

    fn text(tag: u8, text: &str) -> Option<i64> {
        let bytes = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        read(Reader::new(&bytes, 0).next().unwrap()).ok().map(Timestamp::secs)
    }

    #[test]
    fn both_forms_are_read_and_no_other() {
        assert_eq!(text(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(text(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(text(UTC_TIME, "500101000000Z"), Some(-631_152_000));
        assert_eq!(text(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        assert_eq!(text(UTC_TIME, "240229120000Z"), Some(1_709_208_000));
        for bad in
            ["", "Z", "230229120000Z", "2402291200Z", "240229120000", "240229120000+0100", "240a29120000Z"]
        {
            assert_eq!(text(UTC_TIME, bad), None, "{bad}");
        }
        for bad in
            ["20241301000000Z", "20240100000000Z", "20240101240000Z", "20240101006000Z", "20240101000060Z"]
        {
            assert_eq!(text(GENERALIZED_TIME, bad), None, "{bad}");
        }
        assert_eq!(text(GENERALIZED_TIME, "20240101000000.5Z"), None);
        assert_eq!(text(0x04, "700101000000Z"), None);
    }

    #[test]
    fn days_agree_with_the_calendar() {
        for (year, month, day) in
            [(0, 1, 1), (1600, 2, 29), (1900, 3, 1), (1999, 12, 31), (2000, 2, 29), (9999, 1, 31)]
        {
            let date = Date::from_calendar_date(year, Month::try_from(month).unwrap(), day).unwrap();
            let expected = i64::from(date.to_julian_day()) - 2_440_588;
            assert_eq!(days(year.into(), month.into(), day.into()), expected, "{year}-{month}-{day}");
        }
    }
}
