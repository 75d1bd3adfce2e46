//! Who is connected from where: bounds in all and for each address.
use super::limits::Limits;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Where a caller is, as far as connections are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// On the socket that only programs of this machine and user can open. They are counted by
    /// themselves: callers of the network never keep them out.
    Local,
    V4(Ipv4Addr),
    /// The first half: the rest is chosen by the caller.
    V6(u64),
}

impl Origin {
    pub fn of(address: IpAddr) -> Origin {
        match address.to_canonical() {
            IpAddr::V4(address) => Origin::V4(address),
            IpAddr::V6(address) => Origin::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Open connections.
#[derive(Default)]
pub struct Visitors {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    of: HashMap<Origin, usize>,
    /// On the public port.
    public: usize,
}

/// One connection; leaves when dropped.
pub struct Visit {
    visitors: Arc<Visitors>,
    origin: Origin,
}

impl Visitors {
    /// Lets a connection in, or says which bound it would break.
    pub fn enter(self: &Arc<Self>, origin: Origin, limits: &Limits) -> Result<Visit, String> {
        let mut counts = self.counts.lock();
        let here = counts.of.get(&origin).copied().unwrap_or(0);
        let local = origin == Origin::Local;
        let all = if local { here } else { counts.public };
        if all >= limits.connections {
            return Err(format!(
                "{all} connections are open, at most CONNECTIONS_MAX (dfs/limits.py)"
            ));
        }
        if !local && here >= limits.connections_per_address {
            return Err(format!(
                "{here} connections from your address are open, at most \
                 CONNECTIONS_PER_ADDRESS_MAX (dfs/limits.py)"
            ));
        }
        counts.of.insert(origin, here + 1);
        counts.public += usize::from(!local);
        Ok(Visit {
            visitors: self.clone(),
            origin,
        })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut counts = self.visitors.counts.lock();
        counts.public -= usize::from(self.origin != Origin::Local);
        if let Some(here) = counts.of.get_mut(&self.origin) {
            *here -= 1;
            if *here == 0 {
                counts.of.remove(&self.origin); // bounded: as many as connections
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, connections_per_address: usize) -> Limits {
        Limits {
            connections,
            connections_per_address,
            ..Limits::default()
        }
    }

    fn origin(address: &str) -> Origin {
        Origin::of(address.parse().unwrap())
    }

    #[test]
    fn one_address_does_not_keep_others_out() {
        let (visitors, limits) = (Arc::<Visitors>::default(), limits(4, 2));
        let first = visitors.enter(origin("192.0.2.1"), &limits).unwrap();
        let mapped = visitors.enter(origin("::ffff:192.0.2.1"), &limits).unwrap();
        let refused = visitors.enter(origin("192.0.2.1"), &limits).err().unwrap();
        assert!(
            refused.starts_with("2 connections from your address"),
            "{refused}"
        );
        assert!(refused.contains("CONNECTIONS_PER_ADDRESS_MAX"), "{refused}");
        let near = visitors.enter(origin("2001:db8::1"), &limits).unwrap();
        let same = visitors.enter(origin("2001:db8::2:1"), &limits).unwrap();
        let full = visitors.enter(origin("192.0.2.2"), &limits).err().unwrap();
        assert!(full.starts_with("4 connections are open"), "{full}");
        assert!(full.contains("CONNECTIONS_MAX"), "{full}");
        let local = visitors.enter(Origin::Local, &limits);
        assert!(
            local.is_ok(),
            "callers of this machine have room of their own"
        );
        drop(first);
        assert!(visitors.enter(origin("192.0.2.1"), &limits).is_ok());
        assert!(
            visitors.enter(origin("2001:db8::3"), &limits).is_err(),
            "the same network"
        );
        drop((mapped, near, same, local));
        assert!(visitors.counts.lock().of.is_empty());
        assert_eq!(visitors.counts.lock().public, 0);
    }

    #[test]
    fn local_callers_are_bounded_in_all() {
        let (visitors, limits) = (Arc::<Visitors>::default(), limits(2, 1));
        let _two = [(); 2].map(|()| visitors.enter(Origin::Local, &limits).unwrap());
        assert!(visitors.enter(Origin::Local, &limits).is_err());
    }
}
