//! Identifiers of KMS keys. Specification: `framework/aws-kms/aws-kms-key-arn.md`, `aws-kms-mrk-match-for-decrypt.md`.

use std::fmt;

use crate::error::NameReason;

/// A key ARN. Unlike an alias, it always names the same key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in crate::provider) struct KeyArn {
    pub(in crate::provider) partition: String,
    pub(in crate::provider) region: String,
    pub(in crate::provider) account: String,
    /// The part after `key/`.
    id: String,
}

/// An identifier of a key, as passed by the caller.
#[derive(Debug, PartialEq)]
pub(in crate::provider) enum KeyId {
    Key(KeyArn),
    /// An alias ARN, an alias, or a key id.
    Other,
}

const FORMAT: &str = "the format is arn:aws:kms:REGION:ACCOUNT:key/ID";

impl KeyArn {
    /// Parses a key ARN. Other identifiers of keys are refused.
    pub(in crate::provider) fn parse(text: &str) -> Result<Self, NameReason> {
        match KeyId::parse(text).map_err(NameReason::Malformed)? {
            KeyId::Key(arn) => Ok(arn),
            KeyId::Other => Err(NameReason::NotKeyArn),
        }
    }

    /// Returns whether the key is a multi-region key: its replicas in other regions can decrypt its ciphertexts.
    pub(in crate::provider) fn is_multi_region(&self) -> bool {
        self.id.starts_with("mrk-")
    }

    /// Returns the ARN of the key's replica in another region.
    pub(in crate::provider) fn in_region(&self, region: &str) -> Self {
        Self { region: region.into(), ..self.clone() }
    }

    /// Returns the ARN with an empty region for a multi-region key, and the unchanged ARN for any other key. All
    /// replicas of a multi-region key have the same result.
    pub(in crate::provider) fn without_region(&self) -> Self {
        if self.is_multi_region() { self.in_region("") } else { self.clone() }
    }

    /// Returns whether this key can decrypt the other key's ciphertexts, because it is the same key or a replica of it.
    pub(in crate::provider) fn decrypts(&self, other: &Self) -> bool {
        self.without_region() == other.without_region()
    }
}

/// Returns whether a text can be the name of a region, such as `eu-west-1`.
pub(in crate::provider) fn is_region(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, region, account, id } = self;
        write!(f, "arn:{partition}:kms:{region}:{account}:key/{id}")
    }
}

impl fmt::Debug for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl KeyId {
    pub(in crate::provider) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".into());
        }
        let Some(rest) = text.strip_prefix("arn:") else {
            let bare = !text.contains([':', '/']);
            let alias = text.strip_prefix("alias/").is_some_and(|name| !name.is_empty());
            return if bare || alias {
                Ok(Self::Other)
            } else {
                Err("it is not an ARN, alias/NAME or a key id".into())
            };
        };
        let parts: Vec<_> = rest.split(':').collect();
        let [partition, service, region, account, resource] = parts[..] else {
            return Err(format!("it has {} parts instead of six; {FORMAT}", parts.len() + 1));
        };
        for (name, part) in [("partition", partition), ("region", region), ("account", account)] {
            if part.is_empty() {
                return Err(format!("its {name} is empty; {FORMAT}"));
            }
        }
        if service != "kms" {
            return Err(format!("its service is {service:?}, not \"kms\"; {FORMAT}"));
        }
        let (kind, id) = resource.split_once('/').unwrap_or((resource, ""));
        match kind {
            "key" | "alias" if id.is_empty() => Err(format!("it has nothing after \"{kind}/\"; {FORMAT}")),
            "key" => {
                let [partition, region, account, id] = [partition, region, account, id].map(str::to_owned);
                Ok(Self::Key(KeyArn { partition, region, account, id }))
            }
            "alias" => Ok(Self::Other),
            _ => Err(format!("it names {resource:?}, not key/ID or alias/NAME; {FORMAT}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_key_arn_is_parsed_as_a_key() {
        for arn in ["arn:aws:kms:eu-west-1:1:key/a", "arn:aws-cn:kms:cn-north-1:1:key/mrk-1/x"] {
            assert_eq!(KeyArn::parse(arn).unwrap().to_string(), arn);
        }
        for id in ["arn:aws:kms:eu-west-1:1:alias/a", "alias/a", "1234abcd-12ab-34cd-56ef-1234567890ab", "mrk-1"] {
            assert_eq!(KeyId::parse(id), Ok(KeyId::Other), "{id}");
            assert_eq!(KeyArn::parse(id).unwrap_err(), NameReason::NotKeyArn);
        }
    }

    #[test]
    fn invalid_identifiers_are_refused_with_a_reason() {
        for (id, why) in [
            ("", "empty"),
            ("alias/", "not an ARN, alias/NAME"),
            ("key/a", "not an ARN"),
            ("a:b", "not an ARN"),
            ("arn:aws:kms:eu-west-1:1", "5 parts"),
            ("arn:aws:kms:eu-west-1:1:key/a:b", "7 parts"),
            ("arn::kms:eu-west-1:1:key/a", "partition is empty"),
            ("arn:aws:s3:eu-west-1:1:key/a", "service is \"s3\""),
            ("arn:aws::eu-west-1:1:key/a", "service is \"\""),
            ("arn:aws:kms::1:key/a", "region is empty"),
            ("arn:aws:kms:eu-west-1::key/a", "account is empty"),
            ("arn:aws:kms:eu-west-1:1:key", "nothing after \"key/\""),
            ("arn:aws:kms:eu-west-1:1:alias/", "nothing after \"alias/\""),
            ("arn:aws:kms:eu-west-1:1:grant/a", "it names \"grant/a\""),
            ("arn:aws:kms:eu-west-1:1:", "it names \"\""),
        ] {
            let error = KeyId::parse(id).unwrap_err();
            assert!(error.contains(why), "{id}: {error}");
        }
    }

    #[test]
    fn a_key_decrypts_its_own_and_its_replicas_ciphertexts() {
        let arn = |text| KeyArn::parse(text).unwrap();
        let replica = arn("arn:aws:kms:eu-west-1:1:key/mrk-a");
        for (other, expected) in [
            ("arn:aws:kms:eu-west-1:1:key/mrk-a", true),
            ("arn:aws:kms:us-east-1:1:key/mrk-a", true),
            ("arn:aws:kms:us-east-1:1:key/mrk-b", false),
            ("arn:aws:kms:us-east-1:2:key/mrk-a", false),
            ("arn:aws-cn:kms:us-east-1:1:key/mrk-a", false),
        ] {
            assert_eq!(replica.decrypts(&arn(other)), expected, "{other}");
            assert_eq!(arn(other).decrypts(&replica), expected, "{other}");
        }
        let single = arn("arn:aws:kms:eu-west-1:1:key/a");
        assert!(single.decrypts(&single) && !single.decrypts(&single.in_region("us-east-1")));
    }

    proptest! {
        #[test]
        fn no_input_causes_a_panic(text in "(arn:)?[a-z:/-]{0,30}") {
            if let Ok(KeyId::Key(arn)) = KeyId::parse(&text) {
                prop_assert_eq!(arn.to_string(), text);
            }
        }
    }
}
