//! Who may do what on the broker: an operator, an account for each namespace (two with the wall, see [`Layout`]), and user
//! tokens minted for each sidecar.
//!
//! The account and its signing key are in the control plane's hands. Sidecars get tokens from a *scoped* signing key:
//! the permission list lives in the account's template, a token carries only a name and tags, so a stolen signing key
//! cannot mint more than the template (facts: verified.md §4).

mod accounts;
mod authority;
mod issue;
mod jwt;
mod layout;
mod permissions;

pub use authority::{Authority, AuthorityError, Credentials, UserSpec};
pub use issue::Recipient;
pub use jwt::claims;
pub use layout::Layout;
