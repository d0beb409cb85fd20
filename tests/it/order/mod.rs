//! Order and priority as agents see them: strict groups, order by key, pools, lanes; under nacks, kills and outages; and as they are published.

mod history;
mod keys;
mod lanes;
mod layout;
mod pools;
mod publishing;
mod strict;
mod world;
