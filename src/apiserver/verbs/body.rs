//! Reading request bodies.

use api::codec::MediaType;
use api::schema::Schema;
use api::{Gvk, Object, Status};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::Verb;
use super::options::{DeleteOptions, WriteOptions};
use crate::codec;

/// Upstream's `MaxRequestBodyBytes`.
pub const BODY_MAX: usize = 3 << 20;

/// The whole body, up to [`BODY_MAX`].
pub async fn read(body: Body) -> Result<Bytes, Status> {
    match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Status::too_large(format!("Request entity too large: limit is {BODY_MAX}")))
        }
        Err(error) => Err(Status::bad_request(format!("cannot read the request body: {error}"))),
    }
}

/// Whether an object has any labels.
pub(super) fn has_labels(object: &Object) -> bool {
    object.get(&["metadata", "labels"]).and_then(Value::as_object).is_some_and(|labels| !labels.is_empty())
}

impl Verb {
    pub(super) async fn take_body(&mut self) -> Result<Bytes, Status> {
        let body = std::mem::replace(self.call.body.get_mut(), Body::empty());
        let bytes = read(body).await?;
        self.server.metrics.requests.body(&self.call.info, bytes.len());
        Ok(bytes)
    }

    /// Decodes the body as `gvk`, by its schema, with defaults.
    pub(super) async fn decode_as(
        &mut self,
        gvk: &Gvk,
        schema: &Schema,
        options: &WriteOptions,
    ) -> Result<Object, Status> {
        let format = codec::body_format(&self.call.parts.headers)?;
        let body = self.take_body().await?;
        if let Some(custom) = &self.served.def.custom
            && *gvk == self.served.def.gvk
        {
            let decoded = custom.decode(&body, format, options.validation)?;
            self.call.warnings.extend(decoded.warnings);
            return Ok(decoded.object);
        }
        let mut object = codec::decode(format, &body, gvk, schema, options.validation, &self.call.warnings)?;
        if *gvk == self.served.def.gvk {
            self.own_labels = has_labels(&object);
            self.served.def.strategy.default(&mut object);
            self.served.def.strategy.default_at(&mut object, self.server.clock.now());
            if let Some(why) = self.served.def.strategy.unconvertible(&object) {
                let (kind, version) = (&gvk.kind, &gvk.version);
                let text = format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}");
                return Err(Status::bad_request(text));
            }
            object = super::through_storage(&self.served.def, object)?;
        }
        keep_reset(&body, format, gvk, &mut object);
        Ok(object)
    }

    /// Makes a body of one of the older versions one of the version that is read. Versions of one shape: only their name
    /// differs.
    pub(super) async fn bring_up_to_date(&mut self, older: &[&str], gvk: &Gvk) -> Result<(), Status> {
        if older.is_empty() {
            return Ok(());
        }
        let format = codec::body_format(&self.call.parts.headers)?;
        let mut body = self.take_body().await?;
        if format != MediaType::Protobuf
            && let Ok(sent) = api::codec::decode_unstructured(&body, format, gvk)
            && older.contains(&sent.object.api_version())
        {
            let mut object = sent.object;
            object.set_gvk(&Gvk { kind: object.kind().to_owned(), ..gvk.clone() });
            // JSON is YAML too.
            body = serde_json::to_vec(&object).map_err(Status::internal)?.into();
        }
        *self.call.body.get_mut() = Body::from(body);
        Ok(())
    }

    /// `DeleteOptions` of the body, or of the query if there is none.
    pub(super) async fn delete_options(&mut self) -> Result<DeleteOptions, Status> {
        let body = self.take_body().await?;
        if body.is_empty() {
            return DeleteOptions::from_query(&self.call.query);
        }
        let format = codec::body_format(&self.call.parts.headers)?;
        let document = codec::decode_options(format, &body, "DeleteOptions", &self.server.types)?;
        // Upstream logs what it made of them (`audit.LogRequestObject`).
        if crate::filters::audited::recorder().is_some() {
            let mut logged = document.clone();
            logged.set(&["apiVersion"], "meta.k8s.io/__internal");
            Self::note_request(&logged);
        }
        // With a body nobody looks at the query (apiserver `handlers/delete.go` `DeleteResource`).
        DeleteOptions::from_object(document)
    }
}

/// Notes in an object that its body empties `managedFields` on purpose: decoding by the schema leaves empty lists out.
fn keep_reset(body: &[u8], format: MediaType, gvk: &Gvk, object: &mut Object) {
    if format != MediaType::Protobuf
        && object.get(&["metadata", "managedFields"]).is_none()
        && may_empty_managers(body)
        && let Ok(sent) = api::codec::decode_unstructured(body, format, gvk)
        && api::apply::resets_ownership(&sent.object)
    {
        api::apply::reset_ownership(object);
    }
}

/// Whether `managedFields` followed by an empty list, or one of an empty object, stands somewhere in a body.
fn may_empty_managers(body: &[u8]) -> bool {
    const NAME: &[u8] = b"managedFields";
    body.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME).any(|(at, _)| {
        let after = body.get(at + NAME.len()..).unwrap_or_default();
        let text: Vec<u8> = after.iter().copied().filter(|c| !c.is_ascii_whitespace() && *c != b'"').take(5).collect();
        text.starts_with(b":[]") || text.starts_with(b":[{}]") || text.starts_with(b":-{}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_emptied_managers_are_looked_at_twice() {
        let check = |body: &str, want: bool| assert_eq!(may_empty_managers(body.as_bytes()), want, "{body}");
        check(r#"{"metadata":{"managedFields":[]}}"#, true);
        check("{\"metadata\":{\"managedFields\" : [ {\n} ]}}", true);
        check("metadata:\n  managedFields: []\n", true);
        check("metadata:\n  managedFields:\n  - {}\n", true);
        check(r#"{"metadata":{"managedFields":[{"manager":"a"}]}}"#, false);
        check(r#"{"metadata":{"managedFields"#, false);
        check("{}", false);
    }
}
