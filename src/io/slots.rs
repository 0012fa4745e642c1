//! The connections of one driver: a slab whose tokens are never valid twice.

use super::Token;

/// `capacity` places; a freed one is used again under the next generation.
pub(super) struct Slots<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    capacity: usize,
}

struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slots<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            capacity,
        }
    }

    /// How many places are taken.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// How many places there are.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// `None` when full: the value comes back so that its owner can decide what to do with it.
    pub(super) fn insert(&mut self, value: T) -> Result<Token, T> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.places.len() < self.capacity => {
                self.places.push(Place {
                    generation: 0,
                    value: None,
                });
                (self.places.len() - 1) as u32
            }
            None => return Err(value),
        };
        let place = &mut self.places[index as usize];
        place.value = Some(value);
        Ok(Token {
            index,
            generation: place.generation,
        })
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut T> {
        let place = self.places.get_mut(token.index as usize)?;
        (place.generation == token.generation)
            .then_some(place.value.as_mut())
            .flatten()
    }

    /// Takes the value out; every copy of the token is stale from here on.
    pub(super) fn remove(&mut self, token: Token) -> Option<T> {
        let place = self.places.get_mut(token.index as usize)?;
        if place.generation != token.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(token.index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_valid_once() {
        let mut slots = Slots::new(1);
        let first = slots.insert('a').unwrap();
        assert_eq!(slots.insert('b'), Err('b'), "the slab is full");
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('c').unwrap();
        assert_eq!(second.index(), first.index(), "the place is used again");
        assert_eq!(slots.get(first), None, "the old token finds nobody");
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&mut 'c'));
    }
}
