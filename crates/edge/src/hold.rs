//! Requests that wait for a target instead of being refused (hold-and-swap).
//!
//! # Expected flow
//! A request that finds no ready target takes a [`Seat`] in its service's [`Room`]. Only whoever sits first looks for a
//! target: when it sits down, when the one before it leaves, and when a table has come into force. It keeps its seat
//! until it is on its way to the instance; then the next one is first. So requests leave in the order in which they
//! came, over all workers, and one that comes while others wait sits down behind them.
//!
//! Nothing of a held request's body is read: its client is not asked for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::ServiceId;
use tokio::sync::Notify;

use crate::limits::Limits;

/// The rooms of all services. Shared by all workers.
pub struct Rooms {
    rooms: Mutex<HashMap<ServiceId, Arc<Room>>>,
    house: Arc<House>,
}

/// What all rooms together hold and may hold.
struct House {
    seats: AtomicUsize,
    bytes: AtomicUsize,
    /// The edge is about to end: nobody waits any more.
    closed: AtomicBool,
    max_per_room: usize,
    max_seats: usize,
    max_bytes: usize,
}

/// Where the requests of one service wait.
pub struct Room {
    seats: Mutex<Seats>,
    /// As many as in `seats`, to be looked at for free.
    taken: AtomicUsize,
    house: Arc<House>,
}

#[derive(Default)]
struct Seats {
    next: u64,
    /// By order of arrival: what wakes each.
    taken: BTreeMap<u64, Arc<Notify>>,
}

/// A place in a room. Leaving it, for whatever reason, makes the next one first.
pub struct Seat {
    room: Arc<Room>,
    number: u64,
    bytes: usize,
    bell: Arc<Notify>,
}

impl Rooms {
    pub fn new(limits: &Limits) -> Self {
        Rooms {
            rooms: Mutex::default(),
            house: Arc::new(House {
                seats: AtomicUsize::new(0),
                bytes: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
                max_per_room: limits.max_held_per_service,
                max_seats: limits.max_held,
                max_bytes: limits.max_held_bytes,
            }),
        }
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<ServiceId, Arc<Room>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room of a service, the same one for as long as a table or a request knows it. A service that holds nothing
    /// keeps the one in which somebody still sits.
    pub fn of(&self, service: ServiceId, holds: bool) -> Option<Arc<Room>> {
        let mut rooms = self.rooms();
        if !holds {
            return rooms.get(&service).filter(|room| room.is_taken()).cloned();
        }
        let open = || {
            Arc::new(Room {
                seats: Mutex::default(),
                taken: AtomicUsize::new(0),
                house: Arc::clone(&self.house),
            })
        };
        Some(Arc::clone(rooms.entry(service).or_insert_with(open)))
    }

    /// To be called when a table has come into force: whoever is first in a room looks for a target. Rooms that nobody
    /// knows any more are given up.
    pub fn knock(&self) {
        self.rooms().retain(|_, room| {
            room.seats().wake_first();
            Arc::strong_count(room) > 1
        });
    }

    /// Sends everybody away, now and from now on.
    pub fn close(&self) {
        self.house.closed.store(true, Ordering::SeqCst);
        for room in self.rooms().values() {
            room.seats().taken.values().for_each(|bell| bell.notify_one());
        }
    }

    /// Requests that wait in all rooms.
    pub fn held(&self) -> usize {
        self.house.seats.load(Ordering::Relaxed)
    }
}

impl Room {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody waits.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::SeqCst) > 0
    }

    /// A seat behind all others, for a request whose head has `bytes`. `None` where one of the limits is reached.
    pub fn enter(self: &Arc<Self>, bytes: usize) -> Option<Seat> {
        let house = &self.house;
        let mut seats = self.seats();
        if seats.taken.len() >= house.max_per_room || house.closed.load(Ordering::SeqCst) {
            return None;
        }
        let taken = house.seats.fetch_add(1, Ordering::SeqCst) + 1;
        let held_bytes = house.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let fits = taken <= house.max_seats && held_bytes <= house.max_bytes;
        let number = seats.next;
        seats.next += 1;
        let bell = Arc::new(Notify::new());
        seats.taken.insert(number, Arc::clone(&bell));
        self.taken.store(seats.taken.len(), Ordering::SeqCst);
        drop(seats);
        let seat = Seat {
            room: Arc::clone(self),
            number,
            bytes,
            bell,
        };
        fits.then_some(seat)
    }
}

impl Seats {
    fn is_first(&self, number: u64) -> bool {
        self.taken.first_key_value().is_some_and(|(first, _)| *first == number)
    }

    fn wake_first(&self) {
        if let Some((_, bell)) = self.taken.first_key_value() {
            bell.notify_one();
        }
    }
}

impl Seat {
    /// Nobody who came earlier still waits.
    pub fn is_first(&self) -> bool {
        self.room.seats().is_first(self.number)
    }

    /// Waiting has no end any more but a refusal.
    pub fn is_closed(&self) -> bool {
        self.room.house.closed.load(Ordering::SeqCst)
    }

    /// Returns when it is time to look again.
    pub async fn called(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.room.seats();
        let was_first = seats.is_first(self.number);
        seats.taken.remove(&self.number);
        self.room.taken.store(seats.taken.len(), Ordering::SeqCst);
        if was_first {
            seats.wake_first();
        }
        drop(seats);
        self.room.house.seats.fetch_sub(1, Ordering::SeqCst);
        self.room.house.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn rooms(limits: Limits) -> (Rooms, ServiceId) {
        (Rooms::new(&limits), uuid::Uuid::new_v4().into())
    }

    fn is_called(seat: &Seat) -> bool {
        seat.called().now_or_never().is_some()
    }

    #[test]
    fn whoever_came_first_is_first_until_it_leaves() {
        let (rooms, service) = rooms(Limits::default());
        let room = rooms.of(service, true).unwrap();
        let [a, b, c] = std::array::from_fn(|_| room.enter(1).unwrap());
        assert_eq!([&a, &b, &c].map(Seat::is_first), [true, false, false]);
        rooms.knock();
        assert_eq!([&a, &b, &c].map(is_called), [true, false, false]);
        drop(b);
        assert_eq!([&a, &c].map(is_called), [false, false]);
        drop(a);
        assert!(is_called(&c) && c.is_first());
        drop(c);
        assert!(!room.is_taken());
    }

    #[test]
    fn seats_and_bytes_are_bounded_and_given_back() {
        let (rooms, service) = rooms(Limits {
            max_held_per_service: 2,
            max_held: 3,
            max_held_bytes: 100,
            ..Limits::default()
        });
        let room = rooms.of(service, true).unwrap();
        let other = rooms.of(uuid::Uuid::new_v4().into(), true).unwrap();
        let seats = [room.enter(10).unwrap(), room.enter(10).unwrap()];
        assert!(room.enter(10).is_none(), "beyond the service's limit");
        assert!(other.enter(81).is_none(), "beyond the limit of bytes");
        let third = other.enter(80).unwrap();
        assert!(other.enter(0).is_none(), "beyond the limit of all");
        drop((seats, third));
        assert_eq!((rooms.held(), rooms.house.bytes.load(Ordering::SeqCst)), (0, 0));
        assert!(room.enter(100).is_some());
    }

    #[test]
    fn a_room_outlives_its_hold_while_somebody_is_in_it() {
        let (rooms, service) = rooms(Limits::default());
        assert!(rooms.of(service, false).is_none());
        let room = rooms.of(service, true).unwrap();
        let seat = room.enter(1).unwrap();
        assert!(Arc::ptr_eq(&rooms.of(service, false).unwrap(), &room));
        drop((seat, room));
        rooms.knock();
        assert!(rooms.of(service, false).is_none());
    }

    #[test]
    fn a_closed_house_sends_everybody_away() {
        let (rooms, service) = rooms(Limits::default());
        let room = rooms.of(service, true).unwrap();
        let seats = [room.enter(1).unwrap(), room.enter(1).unwrap()];
        rooms.close();
        assert!(seats.iter().all(|seat| is_called(seat) && seat.is_closed()));
        assert!(room.enter(1).is_none());
    }
}
