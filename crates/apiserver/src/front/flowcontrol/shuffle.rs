//! Shuffle sharding (KEP-1040): a flow's hash deals it a small hand out of the queues of its priority level, so
//! that a flow that floods its hand leaves most other flows a queue of their own.

/// How many bits of a hash may be used: with fewer left over, the last cards of a hand would be uneven.
pub const MAX_HASH_BITS: u32 = 60;
/// The largest hand whose deal fits into [`MAX_HASH_BITS`].
const MAX_HAND: usize = 15;
/// The largest deck that is dealt from.
const MAX_DECK: usize = 1 << 26;

/// How many bits of a hash a deal uses up, as validation counts them.
pub fn entropy_bits(deck: usize, hand: usize) -> u32 {
    ((deck as f64).log2() * hand as f64).ceil() as u32
}

/// Whether hands of that size can be dealt from a deck of that size.
pub fn can_deal(deck: usize, hand: usize) -> bool {
    (1..=deck).contains(&hand) && deck <= MAX_DECK && entropy_bits(deck, hand) <= MAX_HASH_BITS
}

/// Deals `hand` different cards out of `0..deck`, which [`can_deal`] has permitted. They are in the array's
/// first places.
pub fn deal(mut hash: u64, deck: usize, hand: usize) -> [usize; MAX_HAND] {
    let mut cards = [0; MAX_HAND];
    let hand = hand.min(MAX_HAND);
    for (dealt, card) in cards.iter_mut().enumerate().take(hand) {
        let left = (deck - dealt) as u64;
        *card = (hash % left) as usize;
        hash /= left;
    }
    // Each number counts the cards that are still there; step over those dealt before, the last one first.
    for dealt in (0..hand).rev() {
        let mut card = cards[dealt];
        for before in (0..dealt).rev() {
            card += usize::from(card >= cards[before]);
        }
        cards[dealt] = card;
    }
    cards
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_hand_has_different_cards_and_every_card_comes_up_alike() {
        let mut seen = [0usize; 7];
        // All hands of 3 out of 7, each as often.
        for hash in 0..(7 * 6 * 5 * 4) {
            let cards = deal(hash, 7, 3);
            let hand: BTreeSet<usize> = cards[..3].iter().copied().collect();
            assert!(hand.len() == 3 && hand.iter().all(|card| *card < 7), "{cards:?}");
            hand.iter().for_each(|card| seen[*card] += 1);
        }
        assert!(seen.iter().all(|count| *count == seen[0]), "{seen:?}");
        assert_eq!(deal(14 + 128 * (72 + 127 * 117), 128, 3)[..3], [14, 73, 119]);
    }

    #[test]
    fn the_hash_limits_hands() {
        for (deck, hand, bits, fits) in
            [(1024, 6, 60, true), (512, 8, 72, false), (64, 8, 48, true), (128, 6, 42, true), (1, 1, 0, true)]
        {
            assert_eq!((entropy_bits(deck, hand), can_deal(deck, hand)), (bits, fits), "{deck} {hand}");
        }
        assert!(!can_deal(4, 5) && !can_deal(4, 0) && !can_deal(0, 0));
    }
}
