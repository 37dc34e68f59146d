package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
)

// Answer is an HTTP answer, as it is kept to be given again.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// answerHead is what comes before the body in an answer as kept.
type answerHead struct {
	Status int         `json:"status"`
	Header http.Header `json:"header,omitempty"`
}

// Encode returns a as a value to keep: the length of the head, the head in JSON,
// and the body as it is.
func (a Answer) Encode() ([]byte, error) {
	head, err := json.Marshal(answerHead{a.Status, a.Header})
	if err != nil {
		return nil, fmt.Errorf("keeping an answer: %w", err)
	}
	value := make([]byte, 0, binary.MaxVarintLen32+len(head)+len(a.Body))
	value = binary.AppendUvarint(value, uint64(len(head)))
	value = append(value, head...)
	return append(value, a.Body...), nil
}

// DecodeAnswer returns the answer that was kept as value. The body is part of
// value. The error wraps [ErrStore].
func DecodeAnswer(value []byte) (*Answer, error) {
	length, n := binary.Uvarint(value)
	if n <= 0 || length > uint64(len(value)-n) { //nolint:gosec // n is at most len(value)
		return nil, fmt.Errorf("%w: a kept answer is cut short", ErrStore)
	}
	begin := n + int(length) //nolint:gosec // at most len(value)
	var head answerHead
	if err := json.Unmarshal(value[n:begin], &head); err != nil {
		return nil, fmt.Errorf("%w: a kept answer: %w", ErrStore, err)
	}
	return &Answer{head.Status, head.Header, value[begin:]}, nil
}
