//! Expressions of rules (`linux/netfilter/nf_tables.h`). Registers are the 32-bit ones: `REG32_00` is 8.

use std::net::Ipv4Addr;

use super::wire::Attributes;

/// First data register; wide values take the following ones too.
pub const R0: u32 = 8;
pub const R1: u32 = 9;
pub const R2: u32 = 10;
pub const R3: u32 = 11;
pub const R4: u32 = 12;
pub const R5: u32 = 13;

/// A mark bit on packets whose source is to be replaced (kube-proxy's bit).
pub const MASQUERADE: u32 = 0x4000;

/// The expressions of one rule.
#[derive(Debug, Clone, Default)]
pub struct Rule(Attributes);

impl Rule {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn into_attributes(self) -> Attributes {
        self.0
    }

    fn push(self, name: &str, data: &Attributes) -> Self {
        let expression = Attributes::new().text(1, name).nested(2, data);
        Self(self.0.nested(1, &expression))
    }

    fn payload(self, register: u32, base: u32, offset: u32, length: u32) -> Self {
        self.push("payload", &Attributes::new().u32(1, register).u32(2, base).u32(3, offset).u32(4, length))
    }

    pub fn load_source(self, register: u32) -> Self {
        self.payload(register, 1, 12, 4)
    }

    pub fn load_destination(self, register: u32) -> Self {
        self.payload(register, 1, 16, 4)
    }

    /// The destination port of TCP, UDP or SCTP, at the same place in all three.
    pub fn load_port(self, register: u32) -> Self {
        self.payload(register, 2, 2, 2)
    }

    fn meta(self, key: u32, register: u32) -> Self {
        self.push("meta", &Attributes::new().u32(2, key).u32(1, register))
    }

    pub fn load_protocol(self, register: u32) -> Self {
        self.meta(16, register)
    }

    fn load_mark(self, register: u32) -> Self {
        self.meta(3, register)
    }

    fn set_mark(self, register: u32) -> Self {
        self.push("meta", &Attributes::new().u32(2, 3).u32(3, register))
    }

    fn bitwise(self, register: u32, mask: [u8; 4], xor: [u8; 4]) -> Self {
        let data = |bytes: &[u8]| Attributes::new().bytes(1, bytes);
        self.push(
            "bitwise",
            &Attributes::new()
                .u32(1, register)
                .u32(2, register)
                .u32(3, 4)
                .nested(4, &data(&mask))
                .nested(5, &data(&xor)),
        )
    }

    fn compare(self, register: u32, not: bool, value: &[u8]) -> Self {
        self.order(register, u32::from(not), value)
    }

    /// Compares by one of the kernel's operators (`enum nft_cmp_ops`).
    fn order(self, register: u32, operator: u32, value: &[u8]) -> Self {
        let value = Attributes::new().bytes(1, value);
        self.push("cmp", &Attributes::new().u32(1, register).u32(2, operator).nested(3, &value))
    }

    fn in_range(self, register: u32, range: ipnet::Ipv4Net, not: bool) -> Self {
        self.bitwise(register, range.netmask().octets(), [0; 4]).compare(register, not, &range.network().octets())
    }

    pub fn source_in(self, range: ipnet::Ipv4Net) -> Self {
        self.load_source(R0).in_range(R0, range, false)
    }

    pub fn source_outside(self, range: ipnet::Ipv4Net) -> Self {
        self.load_source(R0).in_range(R0, range, true)
    }

    pub fn destination_in(self, range: ipnet::Ipv4Net) -> Self {
        self.load_destination(R0).in_range(R0, range, false)
    }

    pub fn destination_outside(self, range: ipnet::Ipv4Net) -> Self {
        self.load_destination(R0).in_range(R0, range, true)
    }

    pub fn protocol_is(self, number: u8, not: bool) -> Self {
        self.load_protocol(R0).compare(R0, not, &[number])
    }

    /// The port of the destination lies between two, both included.
    pub fn port_in(self, first: u16, last: u16) -> Self {
        const AT_MOST: u32 = 3;
        const AT_LEAST: u32 = 5;
        self.load_port(R0).order(R0, AT_LEAST, &first.to_be_bytes()).order(R0, AT_MOST, &last.to_be_bytes())
    }

    /// The packet opens a connection.
    pub fn connection_is_new(self) -> Self {
        const NEW: u32 = 8;
        self.connection_is(NEW)
    }

    /// The packet belongs to a connection that is there already, or reports an error of one.
    pub fn connection_is_known(self) -> Self {
        const ESTABLISHED: u32 = 2;
        const RELATED: u32 = 4;
        self.connection_is(ESTABLISHED | RELATED)
    }

    fn connection_is(self, states: u32) -> Self {
        self.push("ct", &Attributes::new().u32(1, R0).u32(2, 0))
            .bitwise(R0, states.to_ne_bytes(), [0; 4])
            .compare(R0, true, &[0; 4])
    }

    /// An address of the packet is one of this node's: the source, or else the destination.
    pub fn is_local(self, source: bool) -> Self {
        const LOCAL: u32 = 2;
        let flags = if source { 1 } else { 2 };
        self.push("fib", &Attributes::new().u32(1, R0).u32(2, 3).u32(3, flags)).compare(R0, false, &LOCAL.to_ne_bytes())
    }

    pub fn mark_masquerade(self) -> Self {
        let bit = MASQUERADE.to_ne_bytes();
        self.load_mark(R0).bitwise(R0, (!MASQUERADE).to_ne_bytes(), bit).set_mark(R0)
    }

    pub fn is_marked(self) -> Self {
        let bit = MASQUERADE.to_ne_bytes();
        self.load_mark(R0).bitwise(R0, bit, [0; 4]).compare(R0, true, &[0; 4])
    }

    pub fn unmark(self) -> Self {
        self.load_mark(R0).bitwise(R0, (!MASQUERADE).to_ne_bytes(), [0; 4]).set_mark(R0)
    }

    /// The value in `register` is a key of the set.
    pub fn in_set(self, set: &str, register: u32) -> Self {
        self.push("lookup", &Attributes::new().text(1, set).u32(2, register))
    }

    /// Puts the value that the map has for the key in `register` into `result`; ends the rule if there is none.
    pub fn look_up(self, map: &str, register: u32, result: u32) -> Self {
        self.push("lookup", &Attributes::new().text(1, map).u32(2, register).u32(3, result))
    }

    /// Goes where the verdict map says.
    pub fn verdict_map(self, map: &str, register: u32) -> Self {
        self.look_up(map, register, 0)
    }

    /// A random number below `modulus`, in the machine's byte order as marks are.
    pub fn random(self, register: u32, modulus: u32) -> Self {
        self.push("numgen", &Attributes::new().u32(1, register).u32(2, modulus).u32(3, 1).u32(4, 0))
    }

    pub fn load(self, register: u32, value: &[u8]) -> Self {
        let value = Attributes::new().bytes(1, value);
        self.push("immediate", &Attributes::new().u32(1, register).nested(2, &value))
    }

    fn verdict(self, verdict: &Attributes) -> Self {
        let value = Attributes::new().nested(2, verdict);
        self.push("immediate", &Attributes::new().u32(1, 0).nested(2, &value))
    }

    pub fn goto(self, chain: &str) -> Self {
        self.verdict(&goto(chain))
    }

    pub fn jump(self, chain: &str) -> Self {
        self.verdict(&Attributes::new().u32(1, (-3_i32).cast_unsigned()).text(2, chain))
    }

    pub fn give_back(self) -> Self {
        self.verdict(&Attributes::new().u32(1, (-5_i32).cast_unsigned()))
    }

    pub fn accept(self) -> Self {
        self.verdict(&Attributes::new().u32(1, 1))
    }

    pub fn drop(self) -> Self {
        self.verdict(&Attributes::new().u32(1, 0))
    }

    /// Rewrites the destination to the address and port in two registers.
    pub fn dnat(self, address: u32, port: u32) -> Self {
        self.push("nat", &Attributes::new().u32(1, 1).u32(2, 2).u32(3, address).u32(5, port))
    }

    pub fn masquerade(self) -> Self {
        // Fully random source ports, as kube-proxy asks for.
        self.push("masq", &Attributes::new().u32(1, 1 << 4))
    }

    pub fn reset(self) -> Self {
        self.push("reject", &Attributes::new().u32(1, 1).bytes(2, &[0]))
    }

    pub fn unreachable(self) -> Self {
        const PORT_UNREACHABLE: u8 = 3;
        self.push("reject", &Attributes::new().u32(1, 0).bytes(2, &[PORT_UNREACHABLE]))
    }

    /// Changes the map: the key and the value are in registers, the timeout in milliseconds.
    pub fn remember(self, map: &str, key: u32, value: u32, timeout_ms: u64) -> Self {
        const ADD: u32 = 0;
        self.push("dynset", &Attributes::new().text(1, map).u32(3, ADD).u32(4, key).u32(5, value).u64(6, timeout_ms))
    }

    /// Restarts the timeout of an element.
    pub fn refresh(self, map: &str, key: u32, value: u32, timeout_ms: u64) -> Self {
        const UPDATE: u32 = 1;
        self.push("dynset", &Attributes::new().text(1, map).u32(3, UPDATE).u32(4, key).u32(5, value).u64(6, timeout_ms))
    }

    /// Removes an element. The kernel wants a value for maps here too, and ignores it.
    pub fn forget(self, map: &str, key: u32, value: u32) -> Self {
        const DELETE: u32 = 2;
        self.push("dynset", &Attributes::new().text(1, map).u32(3, DELETE).u32(4, key).u32(5, value))
    }
}

/// The verdict of going to a chain for good.
pub fn goto(chain: &str) -> Attributes {
    Attributes::new().u32(1, (-4_i32).cast_unsigned()).text(2, chain)
}

/// Fields of a concatenated key or value: each padded to four bytes.
pub fn concat(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// An endpoint as the data map has it.
pub fn endpoint((address, port): (Ipv4Addr, u16)) -> Vec<u8> {
    concat(&[&address.octets(), &port.to_be_bytes()])
}
