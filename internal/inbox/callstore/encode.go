package callstore

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

const checksumSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeCall returns c as bytes: the length of the head, the head in JSON, the body,
// and a checksum. The checksum prevents that a disk error changes an amount.
func encodeCall(c Call) ([]byte, error) {
	head, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	value := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen32+len(head)+len(c.Body)+checksumSize), uint64(len(head)))
	value = append(append(value, head...), c.Body...)
	return binary.BigEndian.AppendUint32(value, crc32.Checksum(value, castagnoli)), nil
}

// decodeCall returns the call that encodeCall encoded as value. The body shares memory
// with value.
func decodeCall(value []byte) (c Call, err error) {
	if err := intact(value); err != nil {
		return c, err
	}
	end := len(value) - checksumSize
	length, n := binary.Uvarint(value[:end])
	if n <= 0 || length > uint64(end-n) { //nolint:gosec // n is at most end
		return c, fmt.Errorf("%w: a kept call is cut short", ErrStore)
	}
	begin := n + int(length) //nolint:gosec // at most end
	if err := json.Unmarshal(value[n:begin], &c); err != nil {
		return c, fmt.Errorf("%w: a kept call: %w", ErrStore, err)
	}
	c.Body = value[begin:end]
	return c, nil
}

// intact returns an error if a call that was encoded is not as it was written.
func intact(value []byte) error {
	end := len(value) - checksumSize
	if end < 0 || binary.BigEndian.Uint32(value[end:]) != crc32.Checksum(value[:end], castagnoli) {
		return fmt.Errorf("%w: a kept call is not as it was written", ErrStore)
	}
	return nil
}

// ackWithSum is set in the time of a record that has a checksum. Earlier versions wrote none.
const ackWithSum = 1 << 63

// encodeAck returns the record of a taken call as bytes: when it expires, the answer, and a
// checksum of these and the key.
func encodeAck(key []byte, expires time.Time, answer store.Answer) []byte {
	return sealAck(key, append(binary.BigEndian.AppendUint64(nil, uint64(expires.UnixNano())), answer.Encode()...))
}

// sealAck adds a checksum to a record that has none.
func sealAck(key, record []byte) []byte {
	at := binary.BigEndian.Uint64(record)
	if at&ackWithSum != 0 {
		return record
	}
	sealed := append(binary.BigEndian.AppendUint64(nil, at|ackWithSum), record[8:]...)
	return binary.BigEndian.AppendUint32(sealed, sumOfAck(key, sealed))
}

func sumOfAck(key, sealed []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, sealed)
}

// decodeAck reads the record of a taken call. proven is whether it has a checksum. The answer
// shares memory with record.
func decodeAck(key, record []byte) (expires time.Time, answer []byte, proven bool, err error) {
	if len(record) < 8 {
		return expires, nil, false, fmt.Errorf("%w: the record of a taken call is cut short", ErrStore)
	}
	answer = record[8:]
	at := binary.BigEndian.Uint64(record)
	if proven = at&ackWithSum != 0; proven {
		end := len(record) - checksumSize
		if end < 8 || binary.BigEndian.Uint32(record[end:]) != sumOfAck(key, record[:end]) {
			return expires, nil, true, fmt.Errorf("%w: the record of a taken call is not as it was written", ErrStore)
		}
		answer = record[8:end]
	}
	return time.Unix(0, int64(at&^ackWithSum)), answer, proven, nil //nolint:gosec // it was made from an int64
}
