//! The wire: code generated from `/proto`, and the only place that converts between it and
//! [`redkite_types`].
//!
//! It owns the shape of messages and nothing else: no IO, no defaults of the server, no checks
//! that need a catalogue (names, limits, whether a field exists).
//!
//! - [`milvus`]: Milvus's packages, which clients speak; `milvus::milvus` holds `MilvusService`
//! - [`redkite`]: what our own services speak to each other and write to the metastore
//! - [`status`]: an error as `common.Status` and back
//! - [`convert`]: schemas, columns, primary keys, query vectors, key-value pairs, template values
//!
//! When a `.proto` file changes, the generated code follows at the next build: no tool to install,
//! nothing to check in.

pub mod convert;
pub mod status;

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::large_futures,
    clippy::unwrap_used,
    rust_2018_idioms,
    rustdoc::all,
    unreachable_pub,
    reason = "generated code is not ours to restyle"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/redkite_generated.rs"));
}

/// Milvus's own packages: what the clients speak.
pub mod milvus {
    pub use super::generated::milvus::proto::{common, feder, milvus, msg, rg, schema};
}

pub use generated::redkite;

/// Every compiled `.proto` file as an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("redkite_descriptor");

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn descriptors() -> FileDescriptorSet {
        FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap()
    }

    #[test]
    fn milvus_service_has_every_rpc() {
        let set = descriptors();
        let service = set
            .file
            .iter()
            .filter(|file| file.package() == "milvus.proto.milvus")
            .flat_map(|file| &file.service)
            .find(|service| service.name() == "MilvusService")
            .unwrap();
        assert_eq!(service.method.len(), 149);
        let streaming: Vec<_> = service
            .method
            .iter()
            .filter(|method| method.client_streaming() || method.server_streaming())
            .map(|method| {
                (
                    method.name(),
                    method.client_streaming(),
                    method.server_streaming(),
                )
            })
            .collect();
        assert_eq!(
            streaming,
            [
                ("CreateReplicateStream", true, true),
                ("DumpMessages", false, true)
            ]
        );
    }

    #[test]
    fn milvus_packages_hold_every_message_and_enum() {
        fn count(message: &prost_types::DescriptorProto) -> (usize, usize) {
            let nested = message.nested_type.iter().filter(|nested| {
                !nested
                    .options
                    .as_ref()
                    .is_some_and(|options| options.map_entry())
            });
            nested
                .map(count)
                .fold((1, message.enum_type.len()), |sum, nested| {
                    (sum.0 + nested.0, sum.1 + nested.1)
                })
        }
        let (mut messages, mut enums) = (0, 0);
        for file in descriptors().file {
            if file.package().starts_with("milvus.proto.") {
                enums += file.enum_type.len();
                for message in &file.message_type {
                    let (nested_messages, nested_enums) = count(message);
                    messages += nested_messages;
                    enums += nested_enums;
                }
            }
        }
        assert_eq!((messages, enums), (362, 32));
    }

    #[test]
    fn the_service_answers_under_the_path_that_clients_call() {
        assert_eq!(
            milvus::milvus::milvus_service_server::SERVICE_NAME,
            "milvus.proto.milvus.MilvusService"
        );
    }
}
