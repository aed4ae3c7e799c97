//! What the messages and services look like on the wire, line by line, in
//! `tests/frozen`: every field with its number and type, every value of an enum,
//! every method, and every number that is not to be used again. New lines may
//! come; none ever goes or changes.

use std::collections::BTreeSet;

use aether_frozen::Frozen;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto,
};

const PUBLIC: &str = "Clients of released versions speak this, and scripts read its names in JSON. \
    A field, its number and its type, and a method are never changed, renamed or removed; what is \
    of no use any more stays, deprecated. Something new takes a number that was never used.";

const VOTERS: &str = "Voters of the release before speak this, during a rolling restart. A field, \
    its number and its type, and a method are never changed; what is of no use any more stays, and \
    something new takes a number that was never used. The other side may not know it.";

/// The lines of some files.
struct Listing(BTreeSet<String>);

impl Listing {
    fn of(files: &[FileDescriptorProto]) -> BTreeSet<String> {
        let mut listing = Self(BTreeSet::new());
        for file in files {
            let package = file.package();
            file.message_type.iter().for_each(|message| listing.message(package, message));
            file.enum_type.iter().for_each(|one| listing.values(package, one));
            for service in &file.service {
                let name = format!("{package}.{}", service.name());
                listing.0.extend(service.method.iter().map(|method| rpc(&name, method)));
            }
        }
        listing.0
    }

    fn message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        self.0.insert(format!("message {name}"));
        for field in &message.field {
            let number = field.number();
            let text = format!("{name}.{} = {number} : {}", field.name(), kind(message, field));
            self.0.insert(text);
        }
        for range in &message.reserved_range {
            for number in range.start()..range.end() {
                self.0.insert(format!("{name} = {number} is not used again"));
            }
        }
        message.nested_type.iter().for_each(|nested| self.message(&name, nested));
        message.enum_type.iter().for_each(|nested| self.values(&name, nested));
    }

    fn values(&mut self, scope: &str, one: &EnumDescriptorProto) {
        for value in &one.value {
            let (name, number) = (value.name(), value.number());
            self.0.insert(format!("enum {scope}.{} {name} = {number}", one.name()));
        }
    }
}

fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_owned(),
        plain => format!("{plain:?}").to_lowercase(),
    };
    let within = match field.oneof_index {
        _ if field.proto3_optional() => "optional ".to_owned(),
        Some(at) => format!("oneof {} ", message.oneof_decl[at as usize].name()),
        None if field.label() == Label::Repeated => "repeated ".to_owned(),
        None => String::new(),
    };
    format!("{within}{kind}")
}

fn rpc(service: &str, method: &MethodDescriptorProto) -> String {
    let side = |is_stream: bool, message: &str| {
        format!("{}{}", if is_stream { "stream " } else { "" }, message.trim_start_matches('.'))
    };
    let takes = side(method.client_streaming(), method.input_type());
    let gives = side(method.server_streaming(), method.output_type());
    format!("rpc {service}.{} ({takes}) returns ({gives})", method.name())
}

#[test]
fn messages_and_services_of_released_versions_only_grow() {
    let all: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/all.bin"));
    let all = FileDescriptorSet::decode(all).expect("descriptors").file;
    let (public, voters): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|file| file.package() == "aether.v1");
    let packages: BTreeSet<&str> = voters.iter().map(|file| file.package()).collect();
    assert_eq!(packages.into_iter().collect::<Vec<_>>(), ["aether.peer.v1", "aether.raft.v1"]);
    for (name, files, rule) in [("public.txt", public, PUBLIC), ("voters.txt", voters, VOTERS)] {
        Frozen::new(env!("CARGO_MANIFEST_DIR"), name, rule).lists(&Listing::of(&files));
    }
}
