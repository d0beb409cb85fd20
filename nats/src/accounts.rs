//! Tells a running broker of the accounts of a namespace, so that namespaces can be made while it runs.
//!
//! Done as the operator, over the system account, for the few seconds it takes. It needs a broker that keeps the accounts it is
//! told of (`resolver: {type: full}`, as managed ones have): another one answers nothing.

use std::time::Duration;

use agentbus_proto::{Code, Fault};
use serde::Deserialize;

use crate::connect::{Identity, Link, Options};
use crate::identity::{Authority, AuthorityError, Layout};
use crate::subject;

/// The broker answers from its disk.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    description: String,
}

/// Whether the broker knows the accounts of this authority's namespace. `now`: seconds since the Unix epoch.
pub async fn known(servers: &[String], authority: &Authority, now: u64) -> Result<bool, Fault> {
    let link = operator(servers, authority, now).await?;
    let (public_key, _) = authority.accounts(now).map_err(|error| unsigned(&error))?.remove(0);
    let found = ask(&link, format!("$SYS.REQ.ACCOUNT.{public_key}.CLAIMS.LOOKUP"), String::new()).await?;
    Ok(!found.is_empty())
}

/// Makes the broker know them, in the authority's layout, instead of what it knew.
pub async fn install(servers: &[String], authority: &Authority, now: u64) -> Result<(), Fault> {
    let link = operator(servers, authority, now).await?;
    for (_, token) in authority.accounts(now).map_err(|error| unsigned(&error))? {
        let answer = ask(&link, "$SYS.REQ.CLAIMS.UPDATE".to_owned(), token).await?;
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|error| Fault::new(Code::BrokerDown, format!("unreadable answer of the broker: {error}")))?;
        if let Some(refusal) = answer.error {
            let why = format!("the broker refuses namespace `{}`: {}", authority.namespace(), refusal.description);
            return Err(Fault::new(Code::BadConfig, why));
        }
    }
    Ok(())
}

async fn operator(servers: &[String], authority: &Authority, now: u64) -> Result<Link, Fault> {
    let credentials = authority.registrar(now).map_err(|error| unsigned(&error))?;
    Link::connect(Options {
        servers: servers.to_vec(),
        name: "agentbus accounts".to_owned(),
        inbox: subject::inbox("accounts"),
        layout: Layout::Plain,
        identity: Identity::from_credentials(&credentials)?,
    })
    .await
}

async fn ask(link: &Link, subject: String, body: String) -> Result<bytes::Bytes, Fault> {
    let answer = tokio::time::timeout(ANSWER_WAIT, link.client.request(subject, body.into())).await;
    match answer {
        Ok(Ok(message)) => Ok(message.payload),
        _ => {
            let why = "the broker takes no new accounts: its configuration needs `resolver: {type: full}`, or its operator adds \
                       what `agentbus auth bootstrap` prints";
            Err(Fault::new(Code::BadConfig, why))
        }
    }
}

fn unsigned(error: &AuthorityError) -> Fault {
    Fault::new(Code::BadConfig, format!("cannot sign for the broker: {error}"))
}
