//! The broker as a person sees it: connected with the person's own credentials, which can look at everything and change no stream.

use std::path::PathBuf;
use std::sync::Arc;

use agentbus_nats::bus::{Bus, JetStream};
use agentbus_nats::connect::{Identity, Link, Options};
use agentbus_nats::identity::Layout;
use agentbus_nats::names::Names;
use agentbus_nats::subject;
use agentbus_proto::Code;
use async_nats::jetstream;

use crate::exit::fault;
use crate::instance::{Global, for_person};

/// A connection and what is on the other side.
pub struct Broker {
    /// JetStream as the person may use it.
    pub jetstream: jetstream::Context,
    /// Names of the namespace's assets.
    pub names: Names,
}

/// Where and as whom.
#[derive(Debug, Clone)]
pub struct Access {
    /// Broker address.
    pub url: String,
    /// Credentials file.
    pub creds: PathBuf,
    /// Namespace.
    pub namespace: String,
}

impl Access {
    /// Of the running instance; without one, NATS_URL and NATS_CREDS, as the nats CLI reads them.
    pub fn find(global: &Global) -> anyhow::Result<Self> {
        for_person()?;
        let none = match global.instance() {
            Ok(instance) => {
                let (url, creds) = (instance.broker.url, instance.broker.creds);
                return Ok(Self { url, creds, namespace: instance.namespace });
            }
            Err(error) => error,
        };
        let var = |key: &str| std::env::var(key).ok().filter(|value| !value.is_empty());
        match (var("NATS_URL"), var("NATS_CREDS")) {
            (Some(url), Some(creds)) if global.dir.is_none() => {
                let namespace = var("AGENTBUS_NAMESPACE").unwrap_or_else(|| "default".to_owned());
                Ok(Self { url, creds: creds.into(), namespace })
            }
            _ => Err(none),
        }
    }

    /// Connects as the person, to look at what is stored.
    pub async fn bus(&self, what: &str) -> anyhow::Result<Arc<dyn Bus>> {
        Ok(JetStream::connect(self.options(what)?).await?)
    }

    /// Connects as the person.
    pub async fn connect(&self, what: &str) -> anyhow::Result<Broker> {
        let link = Link::connect(self.options(what)?).await?;
        Ok(Broker { jetstream: jetstream::new(link.client.clone()), names: Names::new(&self.namespace) })
    }

    fn options(&self, what: &str) -> anyhow::Result<Options> {
        if self.url == agentbus_nats::bus::memory::URL {
            let why = "this bus runs in memory, inside `agentbus up --memory`: there is no broker to connect to; start it without --memory for one";
            return Err(fault(Code::BadConfig, why));
        }
        let text = std::fs::read_to_string(&self.creds).map_err(|error| {
            fault(Code::BadConfig, format!("cannot read the credentials `{}`: {error}", self.creds.display()))
        })?;
        Ok(Options {
            servers: vec![self.url.clone()],
            name: format!("agentbus {what}"),
            inbox: subject::inbox("me"),
            layout: Layout::Plain,
            identity: Identity::from_creds(&text)?,
        })
    }
}
