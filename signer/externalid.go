package signer

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	externalIDTime    = 13 // digits of the time in milliseconds
	externalIDRandom  = 19 // digits, so 32 in all
	externalIDLongest = 36 // of SNAP

	externalIDSendable = 64 // more than the 57 of DOKU's PHP library
)

// ExternalID returns a new X-EXTERNAL-ID: 32 digits, the time now in
// milliseconds followed by 19 random ones read from random. Sidecars
// need no coordination: two ids of the same millisecond are equal once in 10^19, and
// ids of different milliseconds never are. An error comes from random.
func ExternalID(now time.Time, random io.Reader) (string, error) {
	const space = uint64(1e19)
	var b [8]byte
	for {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return "", fmt.Errorf("making external id: %w", err)
		}
		// Numbers beyond the largest multiple of the space are drawn again, so
		// that all ids are equally likely. 10^19 fits once into 64 bits.
		if n := binary.BigEndian.Uint64(b[:]); n < space {
			var id [externalIDTime + externalIDRandom]byte
			digits(id[:externalIDTime], uint64(now.UnixMilli()))
			digits(id[externalIDTime:], n)
			return string(id[:]), nil
		}
	}
}

// digits writes n into all of text, with zeros in front.
func digits(text []byte, n uint64) {
	for i := len(text) - 1; i >= 0; i-- {
		text[i], n = '0'+byte(n%10), n/10
	}
}

// ValidExternalID reports whether id may be sent as X-EXTERNAL-ID: 1 to 36
// digits.
func ValidExternalID(id string) bool {
	if id == "" || len(id) > externalIDLongest {
		return false
	}
	for i := range len(id) {
		if id[i] < '0' || id[i] > '9' {
			return false
		}
	}
	return true
}

// SendableExternalID reports whether DOKU may take id as X-EXTERNAL-ID though SNAP does not
// allow it: 1 to 64 letters, digits, and any of "-_.:+". DOKU takes what its own libraries
// send: the one for Node 50 characters with hyphens, the one for PHP 57 with ":" and "+".
func SendableExternalID(id string) bool {
	if id == "" || len(id) > externalIDSendable {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case '0' <= c && c <= '9', 'a' <= c|0x20 && c|0x20 <= 'z':
		case strings.IndexByte("-_.:+", c) >= 0:
		default:
			return false
		}
	}
	return true
}
