package callstore

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
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
	end := len(value) - checksumSize
	if end < 0 || binary.BigEndian.Uint32(value[end:]) != crc32.Checksum(value[:end], castagnoli) {
		return c, fmt.Errorf("%w: a kept call is not as it was written", ErrStore)
	}
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
