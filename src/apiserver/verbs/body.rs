//! Reading request bodies.

use api::schema::Schema;
use api::{Gvk, Object, Status};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

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

impl Verb {
    pub(super) async fn take_body(&mut self) -> Result<Bytes, Status> {
        let body = std::mem::replace(self.call.body.get_mut(), Body::empty());
        read(body).await
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
            self.served.def.strategy.default(&mut object);
        }
        Ok(object)
    }

    /// `DeleteOptions` of the body, or of the query if there is none.
    pub(super) async fn delete_options(&mut self) -> Result<DeleteOptions, Status> {
        let body = self.take_body().await?;
        if body.is_empty() {
            return DeleteOptions::from_query(&self.call.query);
        }
        let format = codec::body_format(&self.call.parts.headers)?;
        let document = codec::decode_options(format, &body, "DeleteOptions", &self.server.types)?;
        Self::note_request(&document);
        let mut options = DeleteOptions::from_object(document)?;
        // Dry run may stand in the query too.
        options.dry_run |= self.call.query.all("dryRun").any(|v| v == "All");
        Ok(options)
    }
}
