//! The id of a message.

use std::fmt;

use crate::suite::MessageVersion;

/// The random id of a message: 16 bytes in version 1, 32 bytes in version 2. `Display` formats it in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId {
    bytes: [u8; 32],
    version: MessageVersion,
}

impl MessageId {
    /// Creates an id that `random` fills.
    pub(crate) fn generate<E>(
        version: MessageVersion,
        random: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut bytes = [0; 32];
        random(&mut bytes[..version.message_id_len()])?;
        Ok(Self { bytes, version })
    }

    /// Creates an id from bytes, which must have the version's length.
    pub(crate) fn from_bytes(version: MessageVersion, bytes: &[u8]) -> Self {
        let Ok(id) = Self::generate(version, |out| {
            out.copy_from_slice(bytes);
            Ok::<_, std::convert::Infallible>(())
        });
        id
    }

    /// Returns the id's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.version.message_id_len()]
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}
