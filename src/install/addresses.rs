//! Who stands behind an address of 127.64.0.0/16: the table of a stand-in's clients, and their addresses put back into its events.
//!
//! What is passed on over loopback seems to come from this node itself, and an audit event without its source is worth
//! little. So each client address gets a loopback address of its own, which the stand-in logs; the table says whose it
//! is. An address is never given to a second client, also not by a process that goes on where another one ended: a table
//! only grows, and what was used is in its file before it is used.

use core::net::{IpAddr, Ipv4Addr}; // of `core`: types without a network behind them
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The first address that stands for a client. Apart from 127.0.0.0/16, where a node's own programs listen.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);
/// The last one: 65 534 clients in the minute that an API server takes to restart, which also bounds the table when
/// somebody comes from ever new IPv6 addresses.
const LAST: Ipv4Addr = Ipv4Addr::new(127, 64, 255, 254);

/// Which loopback address stands for which client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    clients: BTreeMap<Ipv4Addr, IpAddr>,
    stand_ins: HashMap<IpAddr, Ipv4Addr>,
}

/// One line of the table: `127.64.0.1 198.51.100.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the stand-in sees and logs.
    pub stand_in: Ipv4Addr,
    /// Whose connection it is.
    pub client: IpAddr,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.stand_in, self.client)
    }
}

impl Addresses {
    /// Reads a table. What is no entry is stepped over, and so is a last line without its end: an entry is used only when
    /// all of its line is written, so that one stands for nobody. Of two lines for one address or one client the first
    /// holds.
    pub fn parse(text: &[u8]) -> Self {
        let mut table = Self::default();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let entry =
                line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()).and_then(entry);
            if let Some(entry) = entry {
                table.insert(entry);
            }
        }
        table
    }

    /// Adds an entry, unless its address or its client has one.
    pub fn insert(&mut self, entry: Entry) {
        if !self.clients.contains_key(&entry.stand_in) && !self.stand_ins.contains_key(&entry.client) {
            self.clients.insert(entry.stand_in, entry.client);
            self.stand_ins.insert(entry.client, entry.stand_in);
        }
    }

    /// The address that stands for a client; `None` when it has none yet. A client on this node's loopback is what it seems to
    /// be, and comes from 127.0.0.1. An IPv4 address written as IPv6 is that IPv4 address.
    pub fn stand_in(&self, client: IpAddr) -> Option<Ipv4Addr> {
        match client.to_canonical() {
            client if client.is_loopback() => Some(Ipv4Addr::LOCALHOST),
            client => self.stand_ins.get(&client).copied(),
        }
    }

    /// The entry to write and then to [`insert`](Self::insert) for a client without one; `None` when the table is full.
    pub fn next(&self, client: IpAddr) -> Option<Entry> {
        let stand_in = match self.clients.last_key_value() {
            Some((last, _)) => Ipv4Addr::from_bits(last.to_bits() + 1),
            None => FIRST,
        };
        (stand_in <= LAST).then(|| Entry { stand_in, client: client.to_canonical() })
    }

    /// The client that an address stands for.
    pub fn client(&self, stand_in: Ipv4Addr) -> Option<IpAddr> {
        self.clients.get(&stand_in).copied()
    }
}

fn entry(line: &str) -> Option<Entry> {
    let (stand_in, client) = line.split_once(' ')?;
    let entry = Entry { stand_in: stand_in.parse().ok()?, client: client.parse().ok()? };
    (FIRST..=LAST).contains(&entry.stand_in).then_some(entry)
}

/// Of an event, where it says whence the request came. Borrowed, so that its place in the line is known; everything else,
/// bodies with a key of the same name too, is skipped by the parser.
#[derive(Deserialize)]
struct Sources<'a> {
    #[serde(borrow, rename = "sourceIPs")]
    source_ips: Vec<&'a RawValue>,
}

/// One line of the stand-in's log with the true source address in it: the event's last `sourceIPs`, if it stands for a client.
///
/// Upstream puts the connection's own address last (`apimachinery/pkg/util/net`, `SourceIPs`); those before it are what the
/// client claims in `X-Forwarded-For` and `X-Real-Ip`, and stay as claimed. Every other byte stays as it is, and so does a
/// line that is no event in JSON.
pub fn restore<'a>(line: &'a [u8], table: &Addresses) -> Cow<'a, [u8]> {
    let Some((stand_in, client)) = source(line, table) else { return Cow::Borrowed(line) };
    // The parser lends pieces of `line` itself, so the difference of the two is an index into it.
    let start = stand_in.as_ptr().addr() - line.as_ptr().addr();
    let (before, after) = (&line[..start], &line[start + stand_in.len()..]);
    Cow::Owned([before, format!("\"{client}\"").as_bytes(), after].concat())
}

/// The event's last source address as it is written, with its quotes, and the client that it stands for.
fn source<'a>(line: &'a [u8], table: &Addresses) -> Option<(&'a str, IpAddr)> {
    let event: Sources<'a> = serde_json::from_slice(line).ok()?;
    let last: &'a str = event.source_ips.last()?.get();
    let address = last.strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
    Some((last, table.client(address)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: &str = "198.51.100.7";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A table that has met these clients, in this order.
    fn met(clients: &[&str]) -> Addresses {
        let mut table = Addresses::default();
        for client in clients {
            table.insert(table.next(ip(client)).unwrap());
        }
        table
    }

    #[track_caller]
    fn check_restored(line: &str, expected: &str) {
        let table = met(&[CLIENT, "2001:db8::7"]);
        assert_eq!(String::from_utf8_lossy(&restore(line.as_bytes(), &table)), expected);
    }

    #[track_caller]
    fn check_unchanged(line: &str) {
        check_restored(line, line);
    }

    #[track_caller]
    fn check_parsed(text: &[u8], expected: &[(&str, &str)]) {
        let table = Addresses::parse(text);
        let entries: Vec<(String, String)> =
            table.clients.iter().map(|(s, c)| (s.to_string(), c.to_string())).collect();
        let expected: Vec<(String, String)> =
            expected.iter().map(|(s, c)| ((*s).to_owned(), (*c).to_owned())).collect();
        assert_eq!(entries, expected);
    }

    #[test]
    fn clients_are_numbered_as_they_come() {
        let table = met(&[CLIENT, "2001:db8::7", "198.51.100.8"]);
        assert_eq!(table.stand_in(ip(CLIENT)), Some(Ipv4Addr::new(127, 64, 0, 1)));
        assert_eq!(table.stand_in(ip("198.51.100.8")), Some(Ipv4Addr::new(127, 64, 0, 3)));
        assert_eq!(table.client(Ipv4Addr::new(127, 64, 0, 2)), Some(ip("2001:db8::7")));
        assert_eq!(table.stand_in(ip("198.51.100.9")), None);
    }

    #[test]
    fn an_ipv4_client_is_the_same_on_an_ipv6_socket() {
        let table = met(&["::ffff:198.51.100.7"]);
        assert_eq!(table.stand_in(ip(CLIENT)), Some(FIRST));
        assert_eq!(table.stand_in(ip("::ffff:198.51.100.7")), Some(FIRST));
        assert_eq!(table.client(FIRST), Some(ip(CLIENT)));
    }

    #[test]
    fn a_client_on_loopback_is_what_it_seems_to_be() {
        for client in ["127.0.0.1", "127.64.0.1", "::1", "::ffff:127.0.0.2"] {
            assert_eq!(met(&[CLIENT]).stand_in(ip(client)), Some(Ipv4Addr::LOCALHOST), "{client}");
        }
    }

    #[test]
    fn a_full_table_takes_nobody_in() {
        let mut table = Addresses::default();
        table.insert(Entry { stand_in: LAST, client: ip(CLIENT) });
        assert_eq!(table.next(ip("198.51.100.8")), None);
        assert_eq!(table.stand_in(ip(CLIENT)), Some(LAST));
    }

    #[test]
    fn what_is_no_entry_is_stepped_over() {
        check_parsed(b"127.64.0.1 198.51.100.7\n127.64.0.2 198.51.100.8", &[("127.64.0.1", "198.51.100.7")]);
        check_parsed(
            b"\n\0\0\xff\nx y\n127.0.0.1 198.51.100.6\n127.64.0.9 198.51.100.7\n127.64.0.4 2001:db8::1\n",
            &[("127.64.0.4", "2001:db8::1"), ("127.64.0.9", "198.51.100.7")],
        );
        check_parsed(
            b"127.64.0.1 198.51.100.7\n127.64.0.1 198.51.100.8\n127.64.0.2 198.51.100.7\n",
            &[("127.64.0.1", "198.51.100.7")],
        );
    }

    #[test]
    fn a_table_read_again_goes_on_after_its_last_address() {
        let table = Addresses::parse(b"127.64.0.7 198.51.100.7\n");
        assert_eq!(table.next(ip("198.51.100.8")).unwrap().to_string(), "127.64.0.8 198.51.100.8");
    }

    #[test]
    fn the_true_address_is_put_back() {
        check_restored(
            r#"{"kind":"Event","sourceIPs":["127.64.0.1"],"userAgent":"kubectl"}"#,
            r#"{"kind":"Event","sourceIPs":["198.51.100.7"],"userAgent":"kubectl"}"#,
        );
        check_restored(
            "{ \"sourceIPs\" : [ \"127.64.0.2\" ] }\n",
            "{ \"sourceIPs\" : [ \"2001:db8::7\" ] }\n",
        );
    }

    #[test]
    fn what_a_client_claims_stays_as_claimed() {
        check_restored(
            r#"{"sourceIPs":["127.64.0.2","127.64.0.1"]}"#,
            r#"{"sourceIPs":["127.64.0.2","198.51.100.7"]}"#,
        );
        check_unchanged(r#"{"sourceIPs":["127.64.0.1","127.0.0.1"]}"#);
    }

    #[test]
    fn bodies_and_other_fields_with_the_same_text_stay() {
        check_restored(
            r#"{"requestURI":"/x?\"sourceIPs\":[\"127.64.0.1\"]","requestObject":{"sourceIPs":["127.64.0.1"]},"sourceIPs":["127.64.0.1"],"responseObject":[{"sourceIPs":["127.64.0.1"]}]}"#,
            r#"{"requestURI":"/x?\"sourceIPs\":[\"127.64.0.1\"]","requestObject":{"sourceIPs":["127.64.0.1"]},"sourceIPs":["198.51.100.7"],"responseObject":[{"sourceIPs":["127.64.0.1"]}]}"#,
        );
        check_unchanged(r#"{"requestObject":{"sourceIPs":["127.64.0.1"]}}"#);
        check_unchanged(r#"{"user":{"username":"127.64.0.1"},"sourceIPs":[]}"#);
    }

    #[test]
    fn an_address_nobody_was_given_stays() {
        check_unchanged(r#"{"sourceIPs":["127.64.0.3"]}"#);
        check_unchanged(r#"{"sourceIPs":["203.0.113.5"]}"#);
    }

    #[test]
    fn a_line_that_is_no_event_in_json_stays() {
        for line in [
            "",
            "\n",
            "{",
            r#"{"sourceIPs":["127.64.0.1"]"#,
            r#"{"sourceIPs":["127.64.0.1"]} {}"#,
            r#"{"sourceIPs":"127.64.0.1"}"#,
            r#"{"sourceIPs":null}"#,
            r#"["127.64.0.1"]"#,
            r#"2026-11-22T10:11:12Z AUDIT: id="1" ip="127.64.0.1""#,
        ] {
            check_unchanged(line);
        }
    }

    /// Any JSON, with our key and our addresses in it more often than chance would have it.
    fn json() -> impl Strategy<Value = serde_json::Value> {
        let text = prop_oneof![
            Just("sourceIPs".to_owned()),
            Just("127.64.0.1".to_owned()),
            Just(r#""sourceIPs":["127.64.0.1"]"#.to_owned()),
            any::<String>(),
        ];
        let leaf =
            prop_oneof![any::<i64>().prop_map(serde_json::Value::from), text.clone().prop_map(Into::into)];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::vec((text.clone(), inner), 0..4)
                    .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_byte_but_the_last_source_address_stays(
            before in json(),
            after in json(),
            claims in prop::collection::vec(Just("127.64.0.1"), 0..3),
        ) {
            let claims: String = claims.iter().map(|claim| format!("\"{claim}\",")).collect();
            let line = |source: &str| format!(
                "{{\"requestObject\":{before},\"sourceIPs\":[{claims}\"{source}\"],\"responseObject\":{after}}}\n"
            );
            let restored = restore(line("127.64.0.1").as_bytes(), &met(&[CLIENT])).into_owned();
            prop_assert_eq!(String::from_utf8_lossy(&restored), line(CLIENT));
        }

        #[test]
        fn an_event_without_source_addresses_stays(body in json()) {
            let line = format!("{{\"requestObject\":{body}}}");
            prop_assert_eq!(&*restore(line.as_bytes(), &met(&[CLIENT])), line.as_bytes());
        }

        #[test]
        fn any_bytes_that_are_no_json_stay(line in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(&*restore(&line, &met(&[CLIENT])), &*line);
        }

        #[test]
        fn what_is_written_is_read_back(clients in prop::collection::vec(any::<[u8; 16]>(), 0..50)) {
            let (mut table, mut text) = (Addresses::default(), String::new());
            for client in clients.iter().map(|bytes| IpAddr::from(*bytes)) {
                if table.stand_in(client).is_none() {
                    let entry = table.next(client).unwrap();
                    text += &format!("{entry}\n");
                    table.insert(entry);
                }
            }
            prop_assert_eq!(Addresses::parse(text.as_bytes()), table);
        }
    }
}
