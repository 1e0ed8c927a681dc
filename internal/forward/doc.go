// Package forward passes one HTTP request on to another server and streams its answer back, at
// constant memory however much there is of either.
//
// It decides nothing about who may ask whom: a [Call] says where a request goes, over which
// connections and with which headers. A request goes nowhere else; redirects are answers like any
// other.
//
// # Invariants
//
//   - Headers that are about one connection are removed in both directions, those that
//     Connection names included (RFC 9110, 7.6.1), before the call's own headers are set:
//     a request cannot have one of these removed.
//   - Path and query are sent byte for byte as the call has them.
//   - Cookies go in neither direction. They are another credential than the call's, and
//     a program that calls several servers through one address would send each the
//     cookies of the others.
//   - Requests that would have the connection become another protocol (Upgrade) are not
//     passed on, nor is such an answer.
//   - Nothing of a request or answer is kept but a buffer for each direction. There is no
//     limit on the whole, but both directions together may not be silent for long.
//   - An answer that breaks off, breaks off for the caller, too: it is never ended as if it
//     were complete.
//
// # Sources
//
// RFC 9110 (7.6 forwarding, 7.8 Upgrade, 10.1.1 Expect, 6.5 trailers), RFC 9112 (6 message body,
// 7.1.2 trailers), RFC 9113 (8.2.2 connection-specific headers), RFC 7838 (Alt-Svc).
package forward
