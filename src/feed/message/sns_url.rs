//! Where SNS keeps its certificates. **Invariant:** nothing is fetched from, and no certificate is believed that came
//! from, an address that anybody but Amazon SNS could answer at.

use super::Poison;

/// A URL at Amazon SNS: `https://sns.<region>.amazonaws.com/<name>.pem`, or `.amazonaws.com.cn`.
#[derive(Debug)]
pub(super) struct SigningUrl {
    url: String,
    region: String,
    suffix: &'static str,
}

impl SigningUrl {
    /// Reads one; there is one spelling.
    pub(super) fn parse(url: &str) -> Result<Self, Poison> {
        let bad = || {
            let why = "`SigningCertURL` is not https://sns.<region>.amazonaws.com[.cn]/<name>.pem";
            Poison::new("bad_certificate_url", why)
        };
        let rest = url.strip_prefix("https://sns.").filter(|_| url.len() <= 256).ok_or_else(bad)?;
        let (host, path) = rest.split_once('/').ok_or_else(bad)?;
        let suffixes = [".amazonaws.com", ".amazonaws.com.cn"];
        let found = suffixes.into_iter().find_map(|suffix| Some((host.strip_suffix(suffix)?, suffix)));
        let (region, suffix) = found.ok_or_else(bad)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let name = path.strip_suffix(".pem").ok_or_else(bad)?;
        if !is_region(region) || name.is_empty() || !name.bytes().all(plain) {
            return Err(bad());
        }
        Ok(Self { url: url.to_owned(), region: region.to_owned(), suffix })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.url
    }

    /// A topic's notifications are signed in its own region.
    pub(super) fn is_of(&self, topic: &str) -> Result<(), Poison> {
        let mut parts = topic.split(':');
        let is_sns = parts.next() == Some("arn") && parts.nth(1) == Some("sns");
        if is_sns && parts.next() == Some(&self.region) {
            return Ok(());
        }
        let why = "`SigningCertURL` is of another region than `TopicArn`";
        Err(Poison::new("bad_certificate_url", why))
    }

    /// The names that SNS has in its certificates: everywhere, or in this region alone.
    pub(super) fn may_be_signed_by(&self, name: &str) -> bool {
        let Self { region, suffix, .. } = self;
        // GovCloud East is signed for in the West.
        let region = if region == "us-gov-east-1" { "us-gov-west-1" } else { region };
        name == "sns.amazonaws.com"
            || name == format!("sns.{}{suffix}", self.region)
            || name == format!("sns-signing.{region}{suffix}")
            || name == format!("sns-{region}{suffix}")
    }
}

/// `us-east-1`, `us-gov-west-1`. Anything looser lets `sns.s3.amazonaws.com` and `sns.s3-us-west-2.amazonaws.com` in,
/// which are buckets of whoever made them.
fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [country, middle @ .., number] = parts.as_slice() else { return false };
    let letters = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    country.len() == 2
        && letters(country)
        && (1..=2).contains(&middle.len())
        && middle.iter().all(|part| letters(part))
        && (1..=2).contains(&number.len())
        && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen failing with anything for a region: `sns` is a bucket's name, too.
    #[test]
    fn only_addresses_of_sns_are_read() {
        for good in [
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123abc.pem",
            "https://sns.us-gov-west-1.amazonaws.com/x.pem",
            "https://sns.cn-north-1.amazonaws.com.cn/x.pem",
        ] {
            assert_eq!(SigningUrl::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "http://sns.us-east-1.amazonaws.com/x.pem",
            "HTTPS://sns.us-east-1.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com:443/x.pem",
            "https://user@sns.us-east-1.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com@evil.example/x.pem",
            "https://sns.us-east-1.amazonaws.com.evil.example/x.pem",
            "https://sns.us-east-1.amazonaws.com/x.pem?a=b.pem",
            "https://sns.us-east-1.amazonaws.com/x#.pem",
            "https://sns.us-east-1.amazonaws.com/../x.pem",
            "https://sns.us-east-1.amazonaws.com/x.cer",
            "https://sns.us-east-1.amazonaws.com/.pem",
            "https://sns.us-east-1.amazonaws.com\\.evil.example/x.pem",
            "https://evil.us-east-1.amazonaws.com/x.pem",
            "https://sns.amazonaws.com/x.pem",
            "https://sns.s3.amazonaws.com/x.pem",
            "https://sns.s3-us-west-2.amazonaws.com/x.pem",
            "https://sns.s3.us-west-2.amazonaws.com/x.pem",
            "https://sns.us-east-1.amazonaws.com.cn.evil/x.pem",
            "https://169.254.169.254/x.pem",
        ] {
            assert!(SigningUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_region_vouches_for_its_own_topics() {
        let url = SigningUrl::parse("https://sns.eu-west-1.amazonaws.com/x.pem").unwrap();
        assert!(url.is_of("arn:aws:sns:eu-west-1:123456789012:t").is_ok());
        for other in
            ["arn:aws:sns:us-east-1:123456789012:t", "arn:aws:sqs:eu-west-1:123456789012:t", "eu-west-1", ""]
        {
            assert!(url.is_of(other).is_err(), "{other}");
        }
        assert!(url.may_be_signed_by("sns.amazonaws.com"));
        assert!(url.may_be_signed_by("sns.eu-west-1.amazonaws.com"));
        assert!(url.may_be_signed_by("sns-signing.eu-west-1.amazonaws.com"));
        for other in ["", "sns.us-east-1.amazonaws.com", "evil.example", "sns.amazonaws.com.evil.example"] {
            assert!(!url.may_be_signed_by(other), "{other}");
        }
    }
}
