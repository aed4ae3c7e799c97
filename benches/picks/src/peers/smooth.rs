//! nginx's smooth weighted round robin (`ngx_http_upstream_round_robin.c`): at each pick all
//! gain their weight, the richest is taken and pays the sum. Under a lock, as nginx has it in
//! a zone that workers share.

use std::sync::{Arc, Mutex};

use super::Peer;
use crate::fleet::Fleet;

struct Row {
    weight: i64,
    current: i64,
}

fn pick(rows: &mut [Row]) -> usize {
    let (mut total, mut best) = (0, 0);
    for index in 0..rows.len() {
        let row = &mut rows[index];
        row.current += row.weight;
        total += row.weight;
        if rows[index].current > rows[best].current {
            best = index;
        }
    }
    rows[best].current -= total;
    best
}

pub fn peer(fleet: Fleet) -> Peer {
    let row = |weight| Row { weight: i64::from(weight), current: 0 };
    let rows: Arc<Mutex<Vec<Row>>> =
        Arc::new(Mutex::new(fleet.weights().into_iter().map(row).collect()));
    let endpoints = usize::from(fleet.endpoints);
    Peer::picking("nginx-style smooth, mutex", true, move || {
        let rows = Arc::clone(&rows);
        Box::new(move || pick(&mut rows.lock().expect("nobody panics in it")) < endpoints)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the change that brought it to nginx.
    #[test]
    fn five_one_one_is_spread_as_nginx_does() {
        let mut rows = [5, 1, 1].map(|weight| Row { weight, current: 0 });
        let picks: Vec<usize> = (0..7).map(|_| pick(&mut rows)).collect();
        assert_eq!(picks, [0, 0, 1, 0, 2, 0, 0]);
    }
}
