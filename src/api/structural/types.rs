//! The table of types that server-side apply walks, made from a structural schema (kube-openapi `schemaconv`, as
//! apiextensions-apiserver's `buildOpenAPIModelsForApply` feeds it).

use std::collections::HashMap;
use std::sync::Arc;

use super::{Additional, ListKind, Structural, Ty, is_meta_field};
use crate::schema::{Field, ListType, Presence, Schema, Str, StructDef, Type, TypeId, Types};

/// The table of a custom resource. `meta` is `ObjectMeta` in the table of built-in types.
pub fn schema(root: Option<&Structural>, kind: &str, meta: &Schema) -> Schema {
    let mut table = Table { defs: Vec::new(), meta, copied: HashMap::new() };
    let none = Structural { preserve_unknown: true, ..Structural::default() };
    let root = table.structure(root.unwrap_or(&none), true, false);
    if let Some(def) = table.defs.get_mut(root.0 as usize) {
        def.name = Str::Owned(kind.to_owned());
    }
    Schema { types: Arc::new(Types::new(table.defs)), root }
}

struct Table<'a> {
    defs: Vec<StructDef>,
    meta: &'a Schema,
    /// Types of `meta` that are in `defs` already.
    copied: HashMap<TypeId, TypeId>,
}

impl Table<'_> {
    fn reserve(&mut self) -> TypeId {
        self.defs.push(StructDef::default());
        TypeId(self.defs.len() as u32 - 1)
    }

    fn set(&mut self, id: TypeId, def: StructDef) {
        if let Some(place) = self.defs.get_mut(id.0 as usize) {
            *place = def;
        }
    }

    /// `preserving`: an object above keeps unknown fields, which upstream's model takes to hold below too.
    fn structure(&mut self, schema: &Structural, resource: bool, preserving: bool) -> TypeId {
        let id = self.reserve();
        let preserving = preserving || schema.preserve_unknown;
        let mut fields: Vec<Field> = Vec::with_capacity(schema.properties.len());
        for (name, property) in &schema.properties {
            if !(resource && is_meta_field(name)) {
                fields.push(self.field(name, property, preserving));
            }
        }
        if resource {
            for name in ["apiVersion", "kind"] {
                fields.push(plain(name, Type::String));
            }
            let metadata = self.copy(self.meta.root);
            fields.push(plain("metadata", Type::Struct(metadata)));
        }
        let open =
            preserving || (schema.properties.is_empty() && !resource) || schema.additional == Additional::Allowed(true);
        let closed = schema.additional == Additional::Allowed(false);
        let def =
            StructDef { fields, atomic: schema.map_atomic, preserve_unknown: open && !closed, ..StructDef::default() };
        self.set(id, def);
        id
    }

    fn field(&mut self, name: &str, schema: &Structural, preserving: bool) -> Field {
        let ty = self.ty(schema, preserving);
        let (list, keys) = match schema.list {
            Some(ListKind::Set) => (ListType::Set, Vec::new()),
            Some(ListKind::Map) => {
                (ListType::Map, schema.list_map_keys.iter().map(|k| Str::Owned(k.to_string())).collect())
            }
            Some(ListKind::Atomic) | None => (ListType::Atomic, Vec::new()),
        };
        Field {
            // Only keys of lists are asked for their defaults.
            default: schema.default.as_ref().filter(|d| !d.is_object() && !d.is_array()).map(|d| (**d).clone()),
            list,
            list_map_keys: keys,
            ..plain(name, ty)
        }
    }

    fn ty(&mut self, schema: &Structural, preserving: bool) -> Type {
        if schema.int_or_string {
            return Type::IntOrString;
        }
        match schema.ty {
            Ty::Boolean => Type::Bool,
            Ty::Integer => Type::Int64,
            Ty::Number => Type::Double,
            Ty::String => Type::String,
            Ty::Array => match &schema.items {
                Some(items) => Type::List(Box::new(self.ty(items, preserving || schema.preserve_unknown))),
                None => Type::List(Box::new(Type::Json)),
            },
            Ty::Any if schema.properties.is_empty() && !schema.embedded => Type::Json,
            Ty::Object | Ty::Any => match &schema.additional {
                Additional::Schema(inner) if schema.properties.is_empty() && !schema.map_atomic => {
                    Type::Map(Box::new(self.ty(inner, preserving || schema.preserve_unknown)))
                }
                // An atomic map is one value, whatever is in it.
                _ => Type::Struct(self.structure(schema, schema.embedded, preserving)),
            },
        }
    }

    /// Copies a type of `meta` with what it reaches.
    fn copy(&mut self, id: TypeId) -> TypeId {
        if let Some(copied) = self.copied.get(&id) {
            return *copied;
        }
        let copy = self.reserve();
        self.copied.insert(id, copy);
        let mut def = self.meta.types.def(id).clone();
        for field in &mut def.fields {
            field.ty = self.copy_ty(&field.ty);
        }
        self.set(copy, def);
        copy
    }

    fn copy_ty(&mut self, ty: &Type) -> Type {
        match ty {
            Type::Struct(id) => Type::Struct(self.copy(*id)),
            Type::List(inner) => Type::List(Box::new(self.copy_ty(inner))),
            Type::Map(inner) => Type::Map(Box::new(self.copy_ty(inner))),
            other => other.clone(),
        }
    }
}

fn plain(name: &str, ty: Type) -> Field {
    Field { name: Str::Owned(name.to_owned()), ty, presence: Presence::AsGiven, pointer: true, ..Field::default() }
}
