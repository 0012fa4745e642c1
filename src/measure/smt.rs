//! Cores that are not two: hardware threads of one physical core slow each other down.

use std::fs;

/// A warning for each server core that shares its execution units with a generator core.
/// `physical` names what a core is a thread of; cores of which nothing is known are not warned of.
pub fn warnings(
    server: &[usize],
    client: &[usize],
    physical: impl Fn(usize) -> Option<PhysicalCore>,
) -> Vec<String> {
    let pair = |&core: &usize| {
        let own = physical(core)?;
        let other = client
            .iter()
            .find(|&&other| other != core && physical(other).as_ref() == Some(&own))?;
        Some(format!(
            "server core {core} and generator core {other} are SMT siblings and slow each other"
        ))
    };
    server.iter().filter_map(pair).collect()
}

/// A package and a core in it, as the kernel numbers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhysicalCore {
    package: String,
    core: String,
}

/// What `core` is a thread of, from sysfs (Documentation/admin-guide/cputopology.rst).
pub fn physical_core(core: usize) -> Option<PhysicalCore> {
    let read = |name: &str| {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/{name}");
        Some(fs::read_to_string(path).ok()?.trim().to_string())
    };
    Some(PhysicalCore {
        package: read("physical_package_id")?,
        core: read("core_id")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two packages of two cores of two threads, numbered as Linux mostly does: 0 and 4 are one
    /// core. Nothing is known of any further one.
    fn machine(core: usize) -> Option<PhysicalCore> {
        (core < 8).then(|| PhysicalCore {
            package: (core % 4 / 2).to_string(),
            core: (core % 2).to_string(),
        })
    }

    fn check(server: &[usize], client: &[usize], pairs: &[(usize, usize)]) {
        let expected: Vec<_> = pairs
            .iter()
            .map(|(core, other)| {
                format!(
                    "server core {core} and generator core {other} are SMT siblings and slow each other"
                )
            })
            .collect();
        assert_eq!(warnings(server, client, machine), expected);
    }

    #[test]
    fn siblings_are_warned_of_and_others_are_not() {
        check(&[0], &[4], &[(0, 4)]);
        check(&[0, 1], &[5, 2], &[(1, 5)]);
        check(&[0], &[1, 2, 3, 5], &[]);
        // One core shared by both ends is refused elsewhere; it is no sibling of its own.
        check(&[0], &[0], &[]);
        check(&[8], &[9], &[]);
    }
}
