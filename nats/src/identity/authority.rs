//! The keys of an installation and the tokens made with them.

use std::collections::BTreeMap;
use std::time::Duration;

use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Layout, accounts, jwt, permissions};
use crate::msg_id;
use crate::pattern::Pattern;

/// Life of a sidecar's token: how long the data plane runs without the control plane. Renewed at half of it.
const USER_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Life of a token of the system account: one look, or one change.
const SYSTEM_LIFE: Duration = Duration::from_secs(60);

/// A key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The nkey itself is bad.
    #[error("cannot use key `{which}`")]
    Key {
        /// Which key.
        which: &'static str,
        /// The library's error.
        #[source]
        source: nkeys::error::Error,
    },
    /// The stored form cannot be read.
    #[error("cannot read the stored authority")]
    Stored(#[from] serde_json::Error),
}

/// Operator, system account, and for one namespace: its account, and its sidecars' scoped signing key. Holds seeds: keep it
/// private. Other namespaces' keys, and that of the sidecars' account behind the wall, follow from the operator's.
pub struct Authority {
    namespace: String,
    layout: Layout,
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
    sidecars: KeyPair,
}

/// The stored form: seeds, for a file that only the owner may read.
#[derive(Serialize, Deserialize)]
struct Seeds {
    namespace: String,
    operator: String,
    system: String,
    account: String,
    sidecars: String,
}

/// What a sidecar's token is to allow.
#[derive(Debug, Clone, Copy)]
pub struct UserSpec<'a> {
    /// Agent name, the sender token.
    pub agent: &'a str,
    /// Public key made in the sidecar.
    pub public_key: &'a str,
    /// Groups it may write retries and dead letters for.
    pub groups: &'a [String],
    /// Their consumers on the events stream.
    pub consumers: &'a [String],
    /// Address patterns it may publish to: `file.*`, `@reviewer`, `#all`, `@*`. What does not parse allows nothing.
    pub publish: &'a [String],
}

/// A token together with its seed, for programs that run in the owner's name.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User JWT.
    pub jwt: String,
    /// Seed of the user key pair: secret.
    pub seed: String,
}

impl Credentials {
    /// The `.creds` file format of the nats CLI and all NATS clients.
    pub fn file(&self) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            self.jwt, self.seed
        )
    }
}

impl Authority {
    /// Makes new keys.
    pub fn generate(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            layout: Layout::Plain,
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
            sidecars: KeyPair::new_account(),
        }
    }

    /// The same installation, and another of its namespaces. Its keys follow from the operator's, so nothing is kept for it.
    pub fn of_namespace(&self, namespace: &str) -> Result<Self, AuthorityError> {
        let copy = |key: &KeyPair, which| {
            let seed = key.seed().and_then(|seed| KeyPair::from_seed(&seed));
            seed.map_err(|source| AuthorityError::Key { which, source })
        };
        let own = namespace == self.namespace;
        let key = |key: &KeyPair, role: &'static str| {
            if own { copy(key, role) } else { derived(&self.operator, role, namespace) }
        };
        Ok(Self {
            namespace: namespace.to_owned(),
            layout: self.layout,
            operator: copy(&self.operator, "operator")?,
            system: copy(&self.system, "system")?,
            account: key(&self.account, "account")?,
            sidecars: key(&self.sidecars, "sidecars")?,
        })
    }

    /// With its accounts laid out this way.
    #[must_use]
    pub fn laid_out(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// The namespace these keys are for.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How its accounts are laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Seeds as JSON: secret.
    pub fn to_json(&self) -> Result<String, AuthorityError> {
        let seed = |key: &KeyPair, which| key.seed().map_err(|source| AuthorityError::Key { which, source });
        let seeds = Seeds {
            namespace: self.namespace.clone(),
            operator: seed(&self.operator, "operator")?,
            system: seed(&self.system, "system")?,
            account: seed(&self.account, "account")?,
            sidecars: seed(&self.sidecars, "sidecars")?,
        };
        Ok(serde_json::to_string_pretty(&seeds)?)
    }

    /// Reads what [`Self::to_json`] wrote.
    pub fn from_json(text: &str) -> Result<Self, AuthorityError> {
        let seeds: Seeds = serde_json::from_str(text)?;
        let key = |seed: &str, which| KeyPair::from_seed(seed).map_err(|source| AuthorityError::Key { which, source });
        Ok(Self {
            layout: Layout::Plain,
            operator: key(&seeds.operator, "operator")?,
            system: key(&seeds.system, "system")?,
            account: key(&seeds.account, "account")?,
            sidecars: key(&seeds.sidecars, "sidecars")?,
            namespace: seeds.namespace,
        })
    }

    /// A secret that only sidecars get, for one agent or one group: `kind` is `agent`, `group` or `control-plane`.
    /// Derived, so that it is the same for all replicas and over restarts.
    pub fn secret(&self, kind: &str, name: &str) -> Result<String, AuthorityError> {
        let seed = self.sidecars.seed().map_err(|source| AuthorityError::Key { which: "sidecars", source })?;
        Ok(msg_id::derive(&seed, &format!("{kind}:{name}")))
    }

    /// The secrets that go with a sidecar's token: its agent's, and one for each of its groups.
    pub(super) fn secrets(
        &self,
        agent: &str,
        groups: &[String],
    ) -> Result<(String, BTreeMap<String, String>), AuthorityError> {
        let of_group = |group: &String| Ok((group.clone(), self.secret("group", group)?));
        Ok((self.secret("agent", agent)?, groups.iter().map(of_group).collect::<Result<_, AuthorityError>>()?))
    }

    /// Public key of the system account, for the server configuration.
    pub fn system_account(&self) -> String {
        self.system.public_key()
    }

    /// The operator's own token, for the server configuration. `now`: seconds since the Unix epoch.
    pub fn operator_jwt(&self, now: u64) -> Result<String, AuthorityError> {
        let nats = json!({"type": "operator", "version": 2, "system_account": self.system.public_key()});
        self.sign(&self.operator, &self.operator.public_key(), "agentbus", now, None, nats)
    }

    /// The accounts of the namespace: (public key, token). The one that others import from comes first.
    pub fn accounts(&self, now: u64) -> Result<Vec<(String, String)>, AuthorityError> {
        let (bus, sidecars) = (self.account.public_key(), self.sidecars.public_key());
        let name = |role: &str| format!("agentbus {}{role}", self.namespace);
        let claims = accounts::bus(&self.namespace, self.layout, &sidecars);
        let mut accounts = vec![self.account_jwt(&self.account, &name(""), claims, now)?];
        if self.layout == Layout::Wall {
            let claims = accounts::agents(&self.namespace, &sidecars, &bus);
            accounts.push(self.account_jwt(&self.agents()?, &name(", agents"), claims, now)?);
        }
        Ok(accounts)
    }

    /// The system account: (public key, token).
    pub fn system(&self, now: u64) -> Result<(String, String), AuthorityError> {
        self.account_jwt(&self.system, "SYS", accounts::system(), now)
    }

    fn account_jwt(
        &self,
        key: &KeyPair,
        name: &str,
        claims: Value,
        now: u64,
    ) -> Result<(String, String), AuthorityError> {
        let public = key.public_key();
        self.sign(&self.operator, &public, name, now, None, claims).map(|token| (public, token))
    }

    /// Mints a sidecar's token: (token, expiry in seconds since the epoch).
    pub fn sidecar(&self, spec: &UserSpec<'_>, now: u64) -> Result<(String, u64), AuthorityError> {
        let groups = spec.groups.iter().map(|group| format!("grp:{group}"));
        let consumers = spec.consumers.iter().map(|consumer| format!("con:{consumer}"));
        let publish = spec.publish.iter().filter_map(|text| Pattern::parse(text).ok());
        let publish = publish.flat_map(|pattern| pattern.permissions()).map(|end| format!("pub:{end}"));
        let tags: Vec<String> = groups.chain(consumers).chain(publish).collect();
        let nats = json!({
            "type": "user", "version": 2,
            "issuer_account": self.home_of_sidecars()?,
            "tags": tags,
            "pub": {}, "sub": {},
        });
        let expires = now + USER_LIFE.as_secs();
        let token = self.sign(&self.sidecars, spec.public_key, spec.agent, now, Some(expires), nats)?;
        Ok((token, expires))
    }

    /// The account of the sidecars behind the wall.
    fn agents(&self) -> Result<KeyPair, AuthorityError> {
        derived(&self.operator, "agents", &self.namespace)
    }

    /// Public key of the account that sidecars are in.
    fn home_of_sidecars(&self) -> Result<String, AuthorityError> {
        match self.layout {
            Layout::Plain => Ok(self.account.public_key()),
            Layout::Wall => self.agents().map(|key| key.public_key()),
        }
    }

    /// Full rights in the account, for the control plane itself.
    pub fn control_plane(&self, now: u64) -> Result<Credentials, AuthorityError> {
        self.user("control-plane", json!({"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}), now)
    }

    /// For the person at the keyboard and the plain nats CLI.
    pub fn person(&self, now: u64) -> Result<Credentials, AuthorityError> {
        self.user("me", permissions::person(), now)
    }

    /// For a minute, to ask every server how it is, and for nothing else: a user of the system account.
    pub fn watcher(&self, now: u64) -> Result<Credentials, AuthorityError> {
        self.system_user("doctor", &["$SYS.REQ.SERVER.PING.STATSZ"], now)
    }

    /// For a minute, to ask for accounts and to change them: a user of the system account.
    pub fn registrar(&self, now: u64) -> Result<Credentials, AuthorityError> {
        self.system_user("accounts", &["$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP"], now)
    }

    fn system_user(&self, name: &str, publish: &[&str], now: u64) -> Result<Credentials, AuthorityError> {
        let key = KeyPair::new_user();
        let nats = json!({
            "type": "user", "version": 2,
            "pub": {"allow": publish}, "sub": {"allow": ["_INBOX.>"]},
            "subs": -1, "data": -1, "payload": -1,
        });
        let expires = Some(now + SYSTEM_LIFE.as_secs());
        let jwt = self.sign(&self.system, &key.public_key(), name, now, expires, nats)?;
        let seed = key.seed().map_err(|source| AuthorityError::Key { which: "user", source })?;
        Ok(Credentials { jwt, seed })
    }

    fn user(&self, name: &str, mut nats: Value, now: u64) -> Result<Credentials, AuthorityError> {
        let key = KeyPair::new_user();
        nats["type"] = json!("user");
        nats["version"] = json!(2);
        let jwt = self.sign(&self.account, &key.public_key(), name, now, None, nats)?;
        let seed = key.seed().map_err(|source| AuthorityError::Key { which: "user", source })?;
        Ok(Credentials { jwt, seed })
    }

    fn sign(
        &self,
        issuer: &KeyPair,
        subject: &str,
        name: &str,
        issued_at: u64,
        expires: Option<u64>,
        nats: Value,
    ) -> Result<String, AuthorityError> {
        jwt::encode(jwt::Claims { subject, name, issued_at, expires, nats }, issuer)
            .map_err(|source| AuthorityError::Key { which: "issuer", source })
    }
}

/// A key that follows from the operator's, for one role in one namespace.
fn derived(operator: &KeyPair, role: &'static str, namespace: &str) -> Result<KeyPair, AuthorityError> {
    let bad = |source| AuthorityError::Key { which: role, source };
    let seed = operator.seed().map_err(bad)?;
    KeyPair::new_from_raw(KeyPairType::Account, msg_id::mac(seed.as_bytes(), &format!("{role}:{namespace}")))
        .map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_survives_being_stored() {
        let authority = Authority::generate("default");
        let again = Authority::from_json(&authority.to_json().unwrap()).unwrap();
        assert_eq!(again.system_account(), authority.system_account());
        assert_eq!(again.operator_jwt(7).unwrap(), authority.operator_jwt(7).unwrap());
        let walled = |authority: Authority| authority.laid_out(Layout::Wall).accounts(7).unwrap();
        assert_eq!(walled(again), walled(authority));
    }

    #[test]
    fn keys_of_an_earlier_version_are_read() {
        let [operator, system, account, sidecars] =
            [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_account()];
        let seed = |key: &KeyPair| key.seed().unwrap();
        let old = json!({
            "namespace": "default", "operator": seed(&operator), "system": seed(&system),
            "account": seed(&account), "sidecars": seed(&sidecars),
        });
        let authority = Authority::from_json(&old.to_string()).unwrap();
        assert_eq!(authority.accounts(7).unwrap()[0].0, account.public_key());
        assert_eq!((authority.layout(), authority.system_account()), (Layout::Plain, system.public_key()));
    }

    #[test]
    fn each_namespace_has_accounts_and_secrets_of_its_own_that_are_the_same_every_time() {
        let authority = Authority::generate("default").laid_out(Layout::Wall);
        let keys = |namespace: &str| {
            let one = authority.of_namespace(namespace).unwrap();
            let accounts: Vec<_> = one.accounts(7).unwrap().into_iter().map(|(key, _)| key).collect();
            (accounts, one.secret("agent", "a").unwrap())
        };
        let (own, sandbox) = (keys("default"), keys("sandbox"));
        assert_eq!((keys("default"), keys("sandbox")), (own.clone(), sandbox.clone()));
        assert_eq!(authority.accounts(7).unwrap().into_iter().map(|(key, _)| key).collect::<Vec<_>>(), own.0);
        assert!(own.0.iter().all(|key| !sandbox.0.contains(key)) && own.1 != sandbox.1);
        assert_eq!((own.0.len(), sandbox.0.len()), (2, 2));
    }

    #[test]
    fn a_sidecar_token_carries_tags_and_no_permissions_of_its_own() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let authority = Authority::generate("default");
        let groups = ["readers".to_owned()];
        let publish = ["notes.Created", "@b", "#all", "@*"].map(str::to_owned);
        let spec = UserSpec { agent: "a", public_key: "UX", groups: &groups, consumers: &groups, publish: &publish };
        let (token, expires) = authority.sidecar(&spec, 1000).unwrap();
        assert_eq!(expires, 1000 + 86_400);
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        let own = ["grp:readers", "con:readers", "pub:topic.*.notes.Created"];
        let others = ["pub:agent.*.b", "pub:agent.*.b.>", "pub:channel.*.all", "pub:channel.*.all.>", "pub:agent.*.>"];
        assert_eq!(claims["nats"]["tags"], json!([&own[..], &others[..]].concat()));
        assert_eq!(claims["nats"]["pub"], json!({}));
    }
}
