//! The watch channel in a simulation: like tokio's, but those who wait are woken
//! in the order in which they came. Tokio wakes them in one of its own choice, so
//! that a run would not be decided by its seed.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::task::{Poll, Waker};

use openraft_rt::{OptionalSend, OptionalSync, watch as traits};

#[derive(Default)]
struct Waiting {
    version: u64,
    is_closed: bool,
    /// By the order in which they came.
    wakers: BTreeMap<u64, Waker>,
    places: u64,
}

struct Shared<T> {
    value: RwLock<T>,
    waiting: Mutex<Waiting>,
    senders: AtomicUsize,
}

impl<T> Shared<T> {
    fn borrow(&self) -> Ref<'_, T> {
        Ref(self.value.read().expect("no panic while held"))
    }

    fn version(&self) -> u64 {
        self.waiting.lock().expect("no panic while held").version
    }

    fn wake(&self, note: impl FnOnce(&mut Waiting)) {
        let wakers = {
            let mut waiting = self.waiting.lock().expect("no panic while held");
            note(&mut waiting);
            std::mem::take(&mut waiting.wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }
}

/// A look at the value.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// All senders are gone.
#[derive(Debug)]
pub struct RecvError;

pub struct Sender<T>(Arc<Shared<T>>);

pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

pub fn channel<T>(first: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(first);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    pub fn new(first: T) -> Self {
        let (value, waiting) = (RwLock::new(first), Mutex::default());
        Sender(Arc::new(Shared { value, waiting, senders: AtomicUsize::new(1) }))
    }

    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = modify(&mut self.0.value.write().expect("no panic while held"));
        if modified {
            self.0.wake(|waiting| waiting.version += 1);
        }
        modified
    }

    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    pub fn send_replace(&self, value: T) -> T {
        let mut before = None;
        self.send_modify(|now| before = Some(std::mem::replace(now, value)));
        before.expect("it was replaced")
    }

    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { shared: self.0.clone(), seen: self.0.version() }
    }

    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.borrow()
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Sender::new(T::default())
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("watch::Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("watch::Receiver")
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake(|waiting| waiting.is_closed = true);
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver { shared: self.shared.clone(), seen: self.seen }
    }
}

/// A place among those who wait; given up when it is dropped.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    number: Option<u64>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if let (Some(number), Ok(mut waiting)) = (self.number, self.shared.waiting.lock()) {
            waiting.wakers.remove(&number);
        }
    }
}

impl<T> Receiver<T> {
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.borrow()
    }

    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.borrow();
        self.seen = self.shared.version();
        value
    }

    pub async fn changed(&mut self) -> Result<(), RecvError> {
        let (shared, seen) = (&*self.shared, self.seen);
        let mut place = Place { shared, number: None };
        let version = poll_fn(move |cx| {
            let mut waiting = shared.waiting.lock().expect("no panic while held");
            if waiting.version != seen {
                return Poll::Ready(Ok(waiting.version));
            }
            if waiting.is_closed {
                return Poll::Ready(Err(RecvError));
            }
            let number = *place.number.get_or_insert_with(|| {
                waiting.places += 1;
                waiting.places
            });
            waiting.wakers.insert(number, cx.waker().clone());
            Poll::Pending
        });
        self.seen = version.await?;
        Ok(())
    }

    pub async fn wait_for(
        &mut self,
        mut holds: impl FnMut(&T) -> bool,
    ) -> Result<Ref<'_, T>, RecvError> {
        loop {
            if holds(&self.borrow_and_update()) {
                return Ok(self.shared.borrow());
            }
            self.changed().await?;
        }
    }
}

/// The same for openraft.
pub struct Watch;

impl traits::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(first: T) -> (Sender<T>, Receiver<T>) {
        channel(first)
    }
}

impl<T: OptionalSend + OptionalSync> traits::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), traits::SendError<T>> {
        self.send_replace(value);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        Sender::send_if_modified(self, modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Sender::subscribe(self)
    }
}

impl<T: OptionalSend + OptionalSync> traits::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), traits::RecvError> {
        Receiver::changed(self).await.map_err(|_| traits::RecvError(()))
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        Receiver::borrow_and_update(self)
    }
}
