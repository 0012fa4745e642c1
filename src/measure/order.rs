//! Which arm runs when.
//!
//! A fixed order once faked a difference of 18 % that alternating made 1 %. An
//! arm inherits from the one before it: warm caches, a hot or throttled core, sockets in
//! TIME_WAIT. So the order is balanced for what came just before. Pure: no clock, no other
//! source of chance than the seed.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// For each round the order in which to run the arms `0..arms`, every arm once a round.
///
/// The rounds are rows of Williams designs (E. J. Williams, "Experimental designs balanced for the
/// estimation of residual effects of treatments", Australian Journal of Scientific Research A2,
/// 1949). A design has `arms` rows when `arms` is even, and twice as many (a square and its mirror
/// image) when it is odd. Over one design
/// - each arm directly follows each other arm equally often within a round: once, or twice when
///   `arms` is odd,
/// - each arm stands at each place of the round equally often.
///
/// What follows across the border of two rounds is left to chance: rows are shuffled.
///
/// Each copy of the design is shuffled by itself, so any number of rounds is as balanced as it can
/// be: when `rounds` is not a multiple of the design's rows, the rest is a random part of one
/// more copy, and two pairs of arms differ in how often they follow each other by at most 1 (at
/// most 2 when `arms` is odd). For the same reason asking for more rounds with the same seed
/// only adds rounds at the end, which is what a run that goes on until its interval is narrow needs.
///
/// The seed decides the order within this build; the generator may change with its crate, so
/// results store the order, not only the seed.
pub fn rounds(arms: usize, rounds: usize, seed: u64) -> Vec<Vec<usize>> {
    let design = williams(arms);
    let mut random = StdRng::seed_from_u64(seed);
    let mut order = Vec::with_capacity(rounds);
    while order.len() < rounds {
        let mut copy = design.clone();
        copy.shuffle(&mut random);
        copy.truncate(rounds - order.len());
        order.append(&mut copy);
    }
    order
}

/// The rows of one balanced design; never without rows.
fn williams(arms: usize) -> Vec<Vec<usize>> {
    // 0, 1, n-1, 2, n-2, …: the steps between neighbours are 1, -2, 3, -4, … modulo n. For even n
    // these are all different, so the shifted rows hold each ordered pair once; for odd n each
    // step comes twice or never, and the mirror image supplies those that are lacking.
    let zigzag = |place: usize| {
        if place % 2 == 1 {
            place.div_ceil(2)
        } else {
            (arms - place / 2) % arms
        }
    };
    let mut rows: Vec<Vec<usize>> = (0..arms.max(1))
        .map(|shift| {
            (0..arms)
                .map(|place| (zigzag(place) + shift) % arms)
                .collect()
        })
        .collect();
    if arms > 1 && arms % 2 == 1 {
        let mirrored: Vec<_> = rows
            .iter()
            .map(|row| row.iter().rev().copied().collect())
            .collect();
        rows.extend(mirrored);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least and the greatest count of "b directly follows a" over all pairs, and of "arm a at
    /// place p" over all arms and places.
    fn balance(arms: usize, order: &[Vec<usize>]) -> ((usize, usize), (usize, usize)) {
        let mut follows = vec![vec![0; arms]; arms];
        let mut stands = vec![vec![0; arms]; arms];
        for round in order {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(
                sorted,
                (0..arms).collect::<Vec<_>>(),
                "every arm once a round"
            );
            for pair in round.windows(2) {
                follows[pair[0]][pair[1]] += 1;
            }
            for (place, &arm) in round.iter().enumerate() {
                stands[arm][place] += 1;
            }
        }
        let spread = |counts: &mut dyn Iterator<Item = usize>| {
            let counts: Vec<_> = counts.collect();
            (*counts.iter().min().unwrap(), *counts.iter().max().unwrap())
        };
        let others =
            (0..arms).flat_map(|a| (0..arms).filter(move |&b| b != a).map(move |b| (a, b)));
        (
            spread(&mut others.map(|(a, b)| follows[a][b])),
            spread(&mut stands.into_iter().flatten()),
        )
    }

    fn check(arms: usize, count: usize, follows: (usize, usize), stands: (usize, usize)) {
        for seed in 0..20 {
            let order = rounds(arms, count, seed);
            assert_eq!(order.len(), count);
            assert_eq!(
                balance(arms, &order),
                (follows, stands),
                "{arms} arms, {count} rounds, seed {seed}"
            );
        }
    }

    #[test]
    fn whole_designs_are_balanced_for_what_came_before_and_for_the_place() {
        check(2, 2, (1, 1), (1, 1));
        check(4, 12, (3, 3), (3, 3));
        check(6, 6, (1, 1), (1, 1));
        check(3, 12, (4, 4), (4, 4));
        check(5, 10, (2, 2), (2, 2));
        check(7, 28, (4, 4), (4, 4));
    }

    #[test]
    fn a_part_of_a_design_differs_by_one_copy_at_most() {
        for (arms, design, most) in [(4, 4, 1), (6, 6, 1), (3, 6, 2), (5, 10, 2)] {
            for count in design..3 * design {
                let order = rounds(arms, count, count as u64);
                let ((least, greatest), _) = balance(arms, &order);
                assert!(greatest - least <= most, "{arms} arms, {count} rounds");
            }
        }
    }

    #[test]
    fn few_arms_and_no_rounds_have_an_order_too() {
        assert_eq!(rounds(0, 2, 1), vec![Vec::<usize>::new(); 2]);
        assert_eq!(rounds(1, 3, 1), vec![vec![0]; 3]);
        assert!(rounds(4, 0, 1).is_empty());
    }

    #[test]
    fn the_seed_decides_and_more_rounds_only_add_to_the_end() {
        assert_eq!(rounds(4, 12, 7), rounds(4, 12, 7));
        assert_ne!(rounds(4, 12, 7), rounds(4, 12, 8));
        assert_eq!(rounds(5, 40, 7)[..13], rounds(5, 13, 7)[..]);
    }
}
