#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]
#![allow(clippy::duplicate_mod, reason = "the store is compiled for each version of object_store")]

#[cfg(not(any(feature = "v0_13", feature = "v0_14")))]
compile_error!(
    "enable the feature `v0_13` or `v0_14` of kms-envelope-object-store: the version of object_store that the program uses"
);

mod binding;
mod error;
mod events;
mod frames;
mod inventory;
mod layout;
mod objects;
mod parts;
mod rewrap;
mod settings;
mod stats;

#[cfg(feature = "v0_13")]
pub mod v0_13;
#[cfg(feature = "v0_14")]
pub mod v0_14;

pub use self::{
    binding::Binding,
    error::{Error, SettingsError},
    inventory::{Content, Message},
    rewrap::{RewrapOptions, Rewrapped},
    settings::StoreSettings,
    stats::StoreStats,
};
