// Package snap is the wire contract of DOKU's SNAP API: what both sides must
// agree on to the byte, and nothing else.
//
// SNAP is Bank Indonesia's national open API payment standard; DOKU's pages
// under "Signature Component SNAP" say how DOKU applies it. The pieces:
//
//   - [AppendStringToSign], [AppendAsymmetricStringToSign] and [TokenStringToSign]: the text
//     that is signed;
//   - [Secret]: the key of the symmetric signature;
//   - [HeaderKey] and [HeaderValues]: the headers of a call;
//   - [AppendCanonical], [AppendMinified] and [Digest]: the body as it is sent and hashed;
//   - [Timestamp] and [ParseTimestamp]: X-TIMESTAMP;
//   - [RequestTarget]: the path and query as they stand on the request line;
//   - [ServiceOf]: the two-digit service code of a method and path;
//   - [PaymentID], [OrderedBy], [Acknowledge] and [ReferenceOf]: the subject of a DOKU call, and the
//     answer that accepts it;
//   - [Case], [ResponseCode], [AnswerStatus] and [Retryable]: response codes, their bodies and
//     their meaning.
//
// Every function depends on its arguments only: no clock, no network, no global
// state that a caller could notice. All of it is safe for
// concurrent use.
package snap
