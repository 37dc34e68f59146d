// Package snap is the wire contract of DOKU's SNAP API: what both sides must
// agree on to the byte, and nothing else.
//
// SNAP is Bank Indonesia's national open API payment standard; DOKU's pages
// under "Signature Component SNAP" say how DOKU applies it. The pieces:
//
//   - [AppendStringToSign] and [TokenStringToSign]: what is signed;
//   - [AppendCanonical], [AppendMinified] and [Digest]: the body as it is sent and hashed;
//   - [Timestamp] and [ParseTimestamp]: X-TIMESTAMP;
//   - [RequestTarget]: the path and query as they stand on the request line;
//   - [ServiceOf]: the two-digit service code of a method and path;
//   - [PaymentID], [OrderedBy], [Acknowledge] and [ReferenceOf]: what a call from DOKU is about;
//   - [Case], [ResponseCode] and [AnswerStatus]: response codes, their bodies, and what they mean.
//
// Everything here is a pure function of its arguments: no clock, no key, no
// network, no global state that a caller could notice. All of it is safe for
// concurrent use.
package snap
