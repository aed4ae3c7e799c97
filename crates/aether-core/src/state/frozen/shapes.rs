//! The types that values are made of: a serializer that writes nothing and notes
//! each field and each variant that it comes by, also the fields that are left
//! out of what is written.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::value::Error;
use serde::ser::{Impossible, SerializeMap, SerializeSeq, SerializeStruct, Serializer};

/// Field of an internally tagged enum that says which variant it is.
const TAGS: [(&str, &str); 2] = [("Command", "type"), ("VoterWanted", "wanted")];

/// What was seen of some values.
#[derive(Debug, Default)]
pub struct Shapes {
    /// By type, or `Enum::Variant`: each field, and whether it ever held anything.
    pub structs: BTreeMap<String, BTreeMap<&'static str, bool>>,
    /// By enum that is written as a word, its variants that were seen.
    pub words: BTreeMap<&'static str, BTreeSet<&'static str>>,
}

impl Shapes {
    /// Looks at one more value.
    pub fn see(&mut self, value: &(impl Serialize + ?Sized)) {
        value.serialize(Look { shapes: self, text: None }).expect("it can be looked at");
    }

    /// `Type.field` of all fields that never held anything.
    pub fn never_filled(&self) -> Vec<String> {
        let all = self.structs.iter().flat_map(|(name, fields)| {
            fields.iter().map(move |(field, is_filled)| (name, field, *is_filled))
        });
        let never = all.filter(|(.., is_filled)| !is_filled);
        never.map(|(name, field, _)| format!("{name}.{field}")).collect()
    }
}

struct Look<'a> {
    shapes: &'a mut Shapes,
    /// Where a text that is come by is put.
    text: Option<&'a mut String>,
}

/// What is in the middle of being looked at. Whether a value holds anything is
/// what looking at it gives.
struct Parts<'a> {
    shapes: &'a mut Shapes,
    name: String,
    is_filled: bool,
}

impl<'a> Parts<'a> {
    fn of(look: Look<'a>, name: &str) -> Result<Self, Error> {
        Ok(Parts { shapes: look.shapes, name: name.to_owned(), is_filled: false })
    }

    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<bool, Error> {
        self.is_filled = true;
        value.serialize(Look { shapes: self.shapes, text: None })
    }

    fn field(&mut self, field: &'static str, is_filled: bool) {
        let fields = self.shapes.structs.entry(self.name.clone()).or_default();
        *fields.entry(field).or_default() |= is_filled;
    }
}

macro_rules! plain {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, _: $type) -> Result<bool, Error> { Ok(true) })*
    };
}

impl<'a> Serializer for Look<'a> {
    /// Whether there is anything in it.
    type Ok = bool;
    type Error = Error;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Impossible<bool, Error>;
    type SerializeTupleStruct = Impossible<bool, Error>;
    type SerializeTupleVariant = Impossible<bool, Error>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Impossible<bool, Error>;

    plain!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32,
        serialize_i64: i64, serialize_u8: u8, serialize_u16: u16, serialize_u32: u32,
        serialize_u64: u64, serialize_f32: f32, serialize_f64: f64, serialize_char: char,
        serialize_bytes: &[u8]
    );

    fn serialize_str(self, value: &str) -> Result<bool, Error> {
        if let Some(text) = self.text {
            value.clone_into(text);
        }
        Ok(true)
    }

    fn serialize_none(self) -> Result<bool, Error> {
        Ok(false)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<bool, Error> {
        value.serialize(self).map(|_| true)
    }

    fn serialize_unit(self) -> Result<bool, Error> {
        Ok(true)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<bool, Error> {
        Ok(true)
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<bool, Error> {
        self.shapes.words.entry(name).or_default().insert(variant);
        Ok(true)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<bool, Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<bool, Error> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, Error> {
        Parts::of(self, "a list")
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, Error> {
        self.serialize_tuple_struct("a tuple", len)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'a>, Error> {
        Parts::of(self, "a map")
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Parts<'a>, Error> {
        Parts::of(self, name)
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, Error> {
        Err(<Error as serde::ser::Error>::custom(format!("{name} is none of the kinds looked at")))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        self.serialize_tuple_struct(name, len)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        len: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        self.serialize_tuple_struct(name, len)
    }
}

impl SerializeSeq for Parts<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.part(value).map(drop)
    }

    fn end(self) -> Result<bool, Error> {
        Ok(self.is_filled)
    }
}

impl SerializeMap for Parts<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.part(key).map(drop)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.part(value).map(drop)
    }

    fn end(self) -> Result<bool, Error> {
        Ok(self.is_filled)
    }
}

impl SerializeStruct for Parts<'_> {
    type Ok = bool;
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        field: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        if TAGS.contains(&(self.name.as_str(), field)) {
            let mut variant = String::new();
            value.serialize(Look { shapes: self.shapes, text: Some(&mut variant) })?;
            self.name = format!("{}::{variant}", self.name);
            self.shapes.structs.entry(self.name.clone()).or_default();
            return Ok(());
        }
        let is_filled = self.part(value)?;
        self.field(field, is_filled);
        Ok(())
    }

    fn skip_field(&mut self, field: &'static str) -> Result<(), Error> {
        self.field(field, false);
        Ok(())
    }

    fn end(self) -> Result<bool, Error> {
        Ok(true)
    }
}
