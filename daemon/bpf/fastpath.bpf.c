// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/* The fast path: packets between containers of two hosts, past the host's network stack.
 *
 * overlayd_out   ingress of the host's end of a container's veth: encapsulates, and sends by the underlay.
 * overlayd_in    ingress of the underlay's interface: checks, decapsulates, and hands over to the container.
 * overlayd_left  egress of the device that the kernel's way sends by: learns which flows leave unrewritten; _leftip
 *                where packets have no Ethernet header there.
 *
 * Whatever does not fit exactly is left to what sees packets after these and to the kernel (TC_ACT_UNSPEC), whose way
 * stays underneath, whole.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ECN_MASK 3
#define ECN_CE 3
#define ENCAP_TTL 64
#define MOST_BYTES 65535
#define VXLAN_VNI_VALID bpf_htonl(0x08000000)
/* RFC 791: fragment offset, and the flag "more fragments". */
#define FRAGMENTED bpf_htons(0x3fff)

#define TCP_SYN 0x02
#define TCP_ACK 0x10
/* How long a flow of UDP stays known after a packet of it, as conntrack has it for one without answers; and how often
 * that is noted. */
#define FLOW_VALID_NS (30 * 1000000000ULL)
#define FLOW_NOTED_NS 1000000000ULL
/* How long conntrack knows a flow of UDP that goes both ways (nf_conntrack_udp_timeout_stream). */
#define PUBLISHED_VALID_NS (120 * 1000000000ULL)

enum format { ROUTES, UDP, VXLAN };

enum reason {
	SENT, RECEIVED,
	/* overlayd_out */
	OUT_PROTOCOL, OUT_SHAPE, OUT_SOURCE, OUT_NEW, OUT_SIZE, OUT_FAILED, OUT_LOST,
	/* overlayd_in */
	IN_SHAPE, IN_STRANGER, IN_SPOOFED, IN_UNKNOWN, IN_FAILED,
	OFF,
	REASONS,
};

struct settings {
	__u64 valid_until_ns; /* CLOCK_MONOTONIC: a daemon that is gone leaves packets to the kernel after this */
	__be32 address;       /* of this host on the underlay */
	__u32 underlay;       /* interface index */
	__u32 vni;
	__be16 port;
	__u8 vtep[ETH_ALEN];  /* this host's, in VXLAN's inner header */
};

struct subnet {
	__u32 prefix_bits;
	__be32 address;
};

struct peer {
	__be32 address;       /* on the underlay */
	__u16 mtu_bytes;      /* of a packet inside */
	__u8 format;
	__u8 receive_only;    /* this kernel cannot write the format */
	__u8 vtep[ETH_ALEN];
	__u8 unused[2];
};

struct port {
	__be32 address;       /* the container's */
	__u8 container[ETH_ALEN];
	__u8 bridge[ETH_ALEN];
};

struct mac {
	__u8 address[ETH_ALEN];
	__u8 unused[2];
};

struct flow {
	__be32 source, destination; /* as the container sends */
	__be16 source_port, destination_port;
	__u32 protocol;
};

struct flow_state {
	__u64 seen_ns;        /* of UDP: when a packet last showed that no NAT changes the flow */
	__u32 opening;        /* of TCP: the peer's SYN came last, past the stack */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct subnet);
	__type(value, struct peer);
} peers SEC(".maps");

/* Address of a container → its port. The kernel removes an entry with the interface. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 4096);
	__type(key, __be32);
	__type(value, __u32);
} containers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct port);
} ports SEC(".maps");

/* MACs of the underlay's routers: by plain routes peers send themselves, and who is behind a router is none. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct mac);
	__type(value, __u32);
} routers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow);
	__type(value, struct flow_state);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* A packet with a tag (802.1Q) comes here without it in its bytes, and would keep it: a container's would leave in a
 * VLAN of the underlay's that it chose, and one of another VLAN would count as the underlay's. All programs ask. */
static __always_inline bool plain_ipv4(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) && !skb->vlan_present;
}

static __always_inline int counted(__u32 reason, int verdict)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &reason);

	if (counter)
		*counter += 1;
	return verdict;
}

static __always_inline int slow(__u32 reason)
{
	return counted(reason, TC_ACT_UNSPEC);
}

static __always_inline struct settings *valid_settings(void)
{
	__u32 zero = 0;
	struct settings *here = bpf_map_lookup_elem(&settings, &zero);

	return here && bpf_ktime_get_ns() < here->valid_until_ns ? here : 0;
}

static __always_inline struct peer *peer_of(__be32 address)
{
	struct subnet key = { .prefix_bits = 32, .address = address };

	return bpf_map_lookup_elem(&peers, &key);
}

/* RFC 1624, with the TTL in the high byte of its word. */
static __always_inline void decrement_ttl(struct iphdr *ip)
{
	__u32 sum = ip->check;

	sum += bpf_htons(0x0100);
	ip->check = (__be16)(sum + (sum >= 0xffff));
	ip->ttl--;
}

/* What both directions can carry: TCP and UDP over IPv4, whole, without options. */
static __always_inline bool plain(const struct iphdr *ip)
{
	return ip->version == 4 && ip->ihl == 5 && !(ip->frag_off & FRAGMENTED) && ip->ttl > 1 &&
	       (ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP);
}

static __always_inline void learn(const struct flow *flow, bool opening)
{
	struct flow_state *there = bpf_map_lookup_elem(&flows, flow);
	struct flow_state fresh = { .opening = opening };

	if (flow->protocol == IPPROTO_UDP)
		fresh.seen_ns = bpf_ktime_get_ns();
	if (!there)
		bpf_map_update_elem(&flows, flow, &fresh, BPF_ANY);
	else if (there->opening != fresh.opening)
		there->opening = fresh.opening;
	else if (fresh.seen_ns - there->seen_ns > FLOW_NOTED_NS)
		there->seen_ns = fresh.seen_ns;
}

/* A socket of a peer's that has sent to a published port here, which conntrack changes: among the flows, without a
 * second end. What it sends to a container itself may have the same ports by then: conntrack tells the two apart. */
static __always_inline void socket_of_peer(struct flow *flow, __be32 address, __be16 port_number)
{
	flow->source = address;
	flow->destination = 0;
	flow->source_port = port_number;
	flow->destination_port = 0;
	flow->protocol = IPPROTO_UDP;
}

static __always_inline bool uses_published(__be32 address, __be16 port_number)
{
	struct flow flow;

	socket_of_peer(&flow, address, port_number);
	struct flow_state *there = bpf_map_lookup_elem(&flows, &flow);

	return there && bpf_ktime_get_ns() - there->seen_ns < PUBLISHED_VALID_NS;
}

/* Whether what a container sends may pass the stack by: no connection by a published port, which conntrack changes. */
static __always_inline bool unchanged(const struct flow *flow, __u8 flags_of_tcp)
{
	if (flow->protocol == IPPROTO_TCP && (flags_of_tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		/* What begins a connection is no reply. */
		learn(flow, false);
		return true;
	}
	struct flow_state *there = bpf_map_lookup_elem(&flows, flow);

	if (!there)
		return false;
	if (flow->protocol == IPPROTO_UDP)
		return bpf_ktime_get_ns() - there->seen_ns < FLOW_VALID_NS &&
		       !uses_published(flow->destination, flow->destination_port);
	if (flags_of_tcp & TCP_SYN && !there->opening) {
		/* The SYN came through the stack: an older connection with these ports was another one. */
		bpf_map_delete_elem(&flows, flow);
		return false;
	}
	return true;
}

static __always_inline bool same_mac(const __u8 *one, const __u8 *other)
{
	return *(__u32 *)one == *(__u32 *)other && *(__u16 *)(one + 4) == *(__u16 *)(other + 4);
}

struct __attribute__((packed)) outer {
	struct iphdr ip;
	struct udphdr udp;
	__be32 flags;
	__be32 vni;
	struct ethhdr eth;
};

#define OUTER_UDP (sizeof(struct iphdr) + sizeof(struct udphdr))

SEC("tc")
int overlayd_out(struct __sk_buff *skb)
{
	if (!plain_ipv4(skb))
		return TC_ACT_UNSPEC;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	__be16 *port_numbers = (void *)(ip + 1);

	if ((void *)(port_numbers + 7) > end) {
		/* The headers of a large packet may be elsewhere; a UDP packet may be short. */
		bpf_skb_pull_data(skb, skb->len < 48 ? skb->len : 48);
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		eth = data;
		ip = (void *)(eth + 1);
		port_numbers = (void *)(ip + 1);
		if ((void *)(port_numbers + 4) > end)
			return TC_ACT_UNSPEC;
	}
	struct peer *peer = peer_of(ip->daddr);

	if (!peer)
		return TC_ACT_UNSPEC;
	struct settings *here = valid_settings();

	if (!here)
		return slow(OFF);
	if (!plain(ip))
		return slow(ip->protocol == IPPROTO_TCP || ip->protocol == IPPROTO_UDP ? OUT_SHAPE : OUT_PROTOCOL);
	__u32 index = skb->ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &index);

	if (!port || port->address != ip->saddr || !same_mac(eth->h_dest, port->bridge))
		return slow(OUT_SOURCE);
	__u32 transport_bytes = sizeof(struct udphdr);
	__u8 flags_of_tcp = 0;

	if (ip->protocol == IPPROTO_TCP) {
		__u8 *tcp = (void *)port_numbers;

		if (tcp + 14 > (__u8 *)end)
			return slow(OUT_SHAPE);
		transport_bytes = tcp[12] >> 4 << 2;
		flags_of_tcp = tcp[13];
	}
	/* What a segment of it has, where the kernel cuts it later. */
	__u32 length = skb->gso_size ? sizeof(*ip) + transport_bytes + skb->gso_size : skb->len - ETH_HLEN;

	if (peer->receive_only)
		return slow(OUT_FAILED);
	if (length > peer->mtu_bytes)
		return slow(OUT_SIZE);
	struct flow flow = {
		.source = ip->saddr, .destination = ip->daddr, .source_port = port_numbers[0],
		.destination_port = port_numbers[1], .protocol = ip->protocol,
	};
	bool vxlan = peer->format == VXLAN;
	__u32 inner = skb->len - ETH_HLEN;
	__u32 room = vxlan ? sizeof(struct outer) : OUTER_UDP;

	/* A packet that is cut later has its whole length in the outer headers until then. */
	if (peer->format != ROUTES && inner + room > MOST_BYTES)
		return slow(OUT_SIZE);
	if (!unchanged(&flow, flags_of_tcp))
		return slow(OUT_NEW);

	__u8 ecn = ip->tos & ECN_MASK;

	if (peer->format == ROUTES) {
		decrement_ttl(ip);
		counted(SENT, 0);
		return bpf_redirect_neigh(here->underlay, 0, 0, 0);
	}
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	__u32 hash = bpf_get_hash_recalc(skb);

	if (vxlan)
		flags |= BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	/* Before Linux 5.13 the last of these flags is refused, and the packet is as it was. */
	if (bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, flags))
		return slow(OUT_FAILED);
	/* Written where they lie, and not on the stack first: that is the quickest. */
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	struct iphdr *outer = data + ETH_HLEN;
	struct udphdr *udp = (void *)(outer + 1);
	__be32 *header = (void *)(udp + 1);
	struct ethhdr *inside = (void *)(header + 2);

	ip = vxlan ? (void *)(inside + 1) : (void *)header;
	if ((void *)(inside + 1) > end || (void *)(ip + 1) > end)
		return counted(OUT_LOST, TC_ACT_SHOT);
	decrement_ttl(ip);
	*(__be16 *)outer = bpf_htons(0x4500 | ecn);
	outer->tot_len = bpf_htons(inner + room);
	outer->id = 0;
	outer->frag_off = 0;
	*(__be16 *)&outer->ttl = bpf_htons(ENCAP_TTL << 8 | IPPROTO_UDP);
	outer->saddr = here->address;
	outer->daddr = peer->address;
	outer->check = 0;
	__u16 *words = (void *)outer;
	__u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	outer->check = ~sum;
	udp->source = here->port;
	udp->dest = here->port;
	udp->len = bpf_htons(inner + room - sizeof(*outer));
	udp->check = 0;
	if (peer->format == VXLAN) {
		udp->source = bpf_htons(32768 + (((hash ^ hash << 16) * 28232ULL >> 32) & 0x7fff));
		header[0] = VXLAN_VNI_VALID;
		header[1] = bpf_htonl(here->vni << 8);
		__builtin_memcpy(inside->h_dest, peer->vtep, ETH_ALEN);
		__builtin_memcpy(inside->h_source, here->vtep, ETH_ALEN);
		inside->h_proto = bpf_htons(ETH_P_IP);
	}
	counted(SENT, 0);
	return bpf_redirect_neigh(here->underlay, 0, 0, 0);
}

SEC("tc")
int overlayd_in(struct __sk_buff *skb)
{
	if (!plain_ipv4(skb))
		return TC_ACT_UNSPEC;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1), *inner = ip;

	if ((void *)(ip + 1) > end || skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	struct settings *here = valid_settings();

	if (!here)
		return TC_ACT_UNSPEC;
	__be32 sender = 0;
	__u8 format = ROUTES, ecn = 0;
	__u32 room = 0;

	if (ip->daddr == here->address) {
		struct outer *outer = (void *)ip;

		if (ip->protocol != IPPROTO_UDP || !here->port || ip->ihl != 5 || ip->frag_off & FRAGMENTED)
			return TC_ACT_UNSPEC;
		format = here->vni ? VXLAN : UDP;
		room = format == VXLAN ? sizeof(*outer) : OUTER_UDP;
		/* As far as the flags of TCP; a packet of UDP may be shorter. The same number for both formats: without
		 * CAP_PERFMON only a constant may be added to a packet's address. */
		const __u32 wanted = ETH_HLEN + sizeof(*outer) + sizeof(*inner) + 14;

		if (data + wanted > end) {
			bpf_skb_pull_data(skb, skb->len < wanted ? skb->len : wanted);
			data = (void *)(long)skb->data;
			end = (void *)(long)skb->data_end;
		}
		eth = data;
		ip = (void *)(eth + 1);
		outer = (void *)ip;
		if ((void *)&outer->flags > end)
			return TC_ACT_UNSPEC;
		if (outer->udp.dest != here->port)
			return TC_ACT_UNSPEC;
		sender = ip->saddr;
		ecn = ip->tos & ECN_MASK;
		if (format == VXLAN) {
			inner = (void *)(outer + 1);
			if ((void *)(inner + 1) > end || outer->flags != VXLAN_VNI_VALID ||
			    outer->vni != bpf_htonl(here->vni << 8) || outer->eth.h_proto != bpf_htons(ETH_P_IP) ||
			    !same_mac(outer->eth.h_dest, here->vtep))
				return slow(IN_SHAPE);
		} else {
			inner = (void *)&outer->flags;
		}
	}
	__be16 *port_numbers = (void *)(inner + 1);

	if ((void *)(port_numbers + 4) > end)
		return TC_ACT_UNSPEC;
	__be32 address = inner->daddr;
	__u32 *index = bpf_map_lookup_elem(&containers, &address);

	if (!index) {
		if (inner->version == 4 && inner->ihl == 5 && inner->protocol == IPPROTO_UDP &&
		    !(inner->frag_off & FRAGMENTED) && peer_of(inner->saddr)) {
			struct flow flow;

			socket_of_peer(&flow, inner->saddr, port_numbers[0]);
			learn(&flow, false);
		}
		return sender ? slow(IN_UNKNOWN) : TC_ACT_UNSPEC;
	}
	struct peer *peer = peer_of(inner->saddr);

	if (!peer)
		/* By plain routes anybody may send to a container; in our format only peers do. */
		return sender ? slow(IN_STRANGER) : TC_ACT_UNSPEC;
	if (sender && sender != peer->address)
		return counted(IN_SPOOFED, TC_ACT_SHOT);
	if (peer->format != format)
		return slow(IN_SHAPE);
	if (!sender) {
		struct mac by = {};

		__builtin_memcpy(by.address, eth->h_source, ETH_ALEN);
		if (bpf_map_lookup_elem(&routers, &by))
			return slow(IN_STRANGER);
	}
	/* Datagrams of a peer's socket may come as one packet (UDP_SEGMENT, UDP_GRO): each has its own inner packet. */
	if (room && bpf_ntohs(inner->tot_len) != skb->len - ETH_HLEN - room)
		return slow(IN_SHAPE);
	/* Several datagrams in one packet keep the mark of the outer headers, which no program can take off: the receiver
	 * would look for those, and drop all. */
	if (room && skb->gso_size && inner->protocol == IPPROTO_UDP)
		return slow(IN_SHAPE);
	if (!plain(inner) || (ecn == ECN_CE && (inner->tos & ECN_MASK) != ECN_CE))
		return slow(IN_SHAPE);
	__u32 target = *index;
	struct port *port = bpf_map_lookup_elem(&ports, &target);

	if (!port)
		return slow(IN_UNKNOWN);
	struct flow reply = {
		.source = inner->daddr, .destination = inner->saddr, .source_port = port_numbers[1],
		.destination_port = port_numbers[0], .protocol = inner->protocol,
	};

	bool opening = false;

	if (inner->protocol == IPPROTO_UDP && uses_published(inner->saddr, port_numbers[0]))
		return slow(IN_SHAPE);
	if (inner->protocol == IPPROTO_TCP) {
		__u8 *tcp = (void *)port_numbers;

		if (tcp + 14 > (__u8 *)end)
			return slow(IN_SHAPE);
		opening = (tcp[13] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
	}
	learn(&reply, opening);
	decrement_ttl(inner);
	if (room && bpf_skb_adjust_room(skb, -(__s32)room, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return counted(IN_FAILED, TC_ACT_SHOT);
	struct ethhdr header = { .h_proto = bpf_htons(ETH_P_IP) };

	__builtin_memcpy(header.h_dest, port->container, ETH_ALEN);
	__builtin_memcpy(header.h_source, port->bridge, ETH_ALEN);
	if (bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0))
		return counted(IN_FAILED, TC_ACT_SHOT);
	counted(RECEIVED, 0);
	return bpf_redirect_peer(target, 0);
}

/* A packet that went through the stack and leaves as its container sent it: no NAT changes its flow. */
static __always_inline int left(struct __sk_buff *skb, __u32 before)
{
	if (!plain_ipv4(skb))
		return TC_ACT_UNSPEC;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + before;
	__be16 *port_numbers = (void *)(ip + 1);

	if ((void *)(port_numbers + 2) > end || !plain(ip))
		return TC_ACT_UNSPEC;
	__be32 source = ip->saddr;

	if (!bpf_map_lookup_elem(&containers, &source) || !peer_of(ip->daddr))
		return TC_ACT_UNSPEC;
	struct flow flow = {
		.source = ip->saddr, .destination = ip->daddr, .source_port = port_numbers[0],
		.destination_port = port_numbers[1], .protocol = ip->protocol,
	};

	learn(&flow, false);
	return TC_ACT_UNSPEC;
}

SEC("tc")
int overlayd_left(struct __sk_buff *skb)
{
	return left(skb, ETH_HLEN);
}

SEC("tc")
int overlayd_leftip(struct __sk_buff *skb)
{
	return left(skb, 0);
}

/* The kernel lends some helpers only to programs under the GPL. */
char _license[] SEC("license") = "Dual BSD/GPL";
