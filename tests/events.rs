//! Events for `tracing`: they report what happens and with which key, never data.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use kms_envelope::{
    DataKeyCache, EncryptionContext, Envelope,
    testing::{Fault, MemoryKey, ScriptedProvider},
};
use pollster::block_on;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Records the events of this crate.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("kms_envelope")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().unwrap().push((*event.metadata().level(), text.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn events_report_requests_hits_and_failures_but_no_context() {
    let log = Log::default();
    let provider = ScriptedProvider::new(MemoryKey::new().unwrap());
    let cache = DataKeyCache::builder(Duration::from_secs(60)).build().unwrap();
    let envelope = Envelope::builder(provider.clone()).cache(cache).build().unwrap();
    let context = EncryptionContext::from([("tenant", "acme")]);
    tracing::subscriber::with_default(log.clone(), || {
        provider.script([Fault::Throttled]);
        block_on(envelope.seal(b"plaintext", &context)).unwrap_err();
        let sealed = block_on(envelope.seal(b"plaintext", &context)).unwrap();
        block_on(envelope.seal(b"plaintext", &context)).unwrap();
        block_on(envelope.open(&sealed, &context)).unwrap();
    });
    let log = log.0.lock().unwrap();
    let levels: Vec<_> = log.iter().map(|(level, _)| *level).collect();
    assert_eq!(levels, [Level::DEBUG, Level::WARN, Level::DEBUG, Level::TRACE, Level::DEBUG], "{log:?}");
    assert!(log[1].1.contains("Throttled") && log[1].1.contains("failed"), "{log:?}");
    for secret in ["acme", "tenant", "plaintext"] {
        assert!(log.iter().all(|(_, text)| !text.contains(secret)), "{log:?}");
    }
}

#[cfg(feature = "aws-lc")]
#[test]
fn an_event_reports_the_strategy_that_opens_frames_faster() {
    let log = Log::default();
    let envelope = Envelope::builder(MemoryKey::new().unwrap()).frame_len(4096).build().unwrap();
    let context = EncryptionContext::new();
    let sealed = block_on(envelope.seal(&[1; 100 * 4096], &context)).unwrap();
    tracing::subscriber::with_default(log.clone(), || block_on(envelope.open(&sealed, &context)).unwrap());
    let log = log.0.lock().unwrap();
    let (level, text) = log.first().unwrap();
    assert_eq!(*level, Level::DEBUG);
    for field in ["frame_len=4096 ", "strategy=", "out_of_place_mb_per_s=", "copy_first_mb_per_s="] {
        assert!(text.contains(field), "{text}");
    }
}
