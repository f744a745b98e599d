//! Runs the conformance suite for key providers on the providers for AWS KMS.

use kms_envelope::{
    AwsKms,
    provider::{AwsKmsDiscovery, ByContext, MultiProvider},
    testing::Conformance,
};
use test_support::kms::{Endpoint, arn};

const NEAR: &str = "eu-west-1";
const FAR: &str = "us-east-1";
const KEY: &str = "1234abcd";
const REPLICATED: &str = "mrk-5678";

fn endpoint() -> Endpoint {
    Endpoint::new([(NEAR, KEY), (NEAR, REPLICATED), (FAR, REPLICATED)])
}

fn key(endpoint: &Endpoint, region: &str, id: &str) -> AwsKms {
    AwsKms::new(endpoint.client(region), arn(region, id)).unwrap()
}

#[tokio::test]
async fn a_kms_key_conforms_and_so_does_discovery_of_it() {
    let endpoint = endpoint();
    let key = key(&endpoint, NEAR, KEY);
    Conformance::new(&key).check().await;
    let discovery = AwsKmsDiscovery::new(|region| endpoint.client(region), [NEAR, FAR]).unwrap();
    Conformance::new(&key).opened_by(&discovery).check().await;
}

#[tokio::test]
async fn a_multi_region_key_and_several_keys_conform() {
    let endpoint = endpoint();
    let replicated = key(&endpoint, FAR, REPLICATED).with_replica(endpoint.client(NEAR), NEAR).unwrap();
    Conformance::new(&key(&endpoint, NEAR, REPLICATED)).opened_by(&replicated).check().await;
    Conformance::new(&MultiProvider::new(replicated).with(key(&endpoint, NEAR, KEY))).check().await;
}

#[tokio::test]
async fn kms_keys_chosen_by_context_conform() {
    let endpoint = endpoint();
    let client = endpoint.client(NEAR);
    let keys = ByContext::new(["key"], move |[id]| AwsKms::resolve(client.clone(), arn(NEAR, &id)));
    let context = [("key", KEY)].into();
    Conformance::new(&keys).with_required_context(context).check().await;
}

#[cfg(feature = "rsa")]
#[tokio::test]
async fn an_rsa_key_of_kms_conforms_in_suites_that_do_not_sign() {
    use kms_envelope::{
        AlgorithmSuite,
        provider::{AwsKmsRsa, RsaPadding},
    };
    use test_support::kms::Rsa;

    let endpoint = Endpoint::with_rsa([(NEAR, KEY)], Some(Rsa::of_fixtures()));
    let key = AwsKmsRsa::new(endpoint.client(NEAR), arn(NEAR, KEY), RsaPadding::OaepSha256).unwrap();
    let key = key.fetch_public_key().await.unwrap();
    let suites = AlgorithmSuite::all().filter(|suite| suite.signature().is_none());
    Conformance::new(&key).with_suites(suites).check().await;
}

#[cfg(feature = "ecdh")]
#[tokio::test]
async fn keys_for_key_agreement_conform_between_two_parties() {
    use kms_envelope::provider::{AwsKmsEcdh, RawEcdh};
    use test_support::kms::{CURVES, other};

    let endpoint = Endpoint::with_agreement_keys(NEAR);
    for curve in CURVES {
        let theirs = other(curve);
        let fetch = |id: &str| AwsKmsEcdh::fetch_public_key(endpoint.client(NEAR), arn(NEAR, id));
        let (own, partner) = (fetch(curve).await.unwrap(), fetch(&theirs).await.unwrap());
        let of = |id: &str, own, other| AwsKmsEcdh::static_keys(endpoint.client(NEAR), arn(NEAR, id), own, other);
        let sealing = of(curve, own.clone(), partner.clone()).unwrap();
        let discovery = AwsKmsEcdh::discovery(endpoint.client(NEAR), arn(NEAR, &theirs), partner.clone()).unwrap();
        Conformance::new(&sealing).check().await;
        Conformance::new(&sealing).opened_by(&of(&theirs, partner.clone(), own).unwrap()).check().await;
        Conformance::new(&sealing).opened_by(&discovery).check().await;
        Conformance::new(&RawEcdh::ephemeral(partner)).opened_by(&discovery).check().await;
    }
}
