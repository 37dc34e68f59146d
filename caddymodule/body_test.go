package caddymodule

import (
	"io"
	"testing"
)

func TestMemoryOfABodyIsNotReusedWhileATransportMayReadIt(t *testing.T) {
	t.Parallel()
	c := &call{body: append(memory(1<<10), "mine"...)}
	reader := c.reader()
	c.free() // the transport has not said that it is done
	for range 100 {
		other := memory(1 << 10)
		_ = append(other, "not mine"...)
		recycle(other)
	}
	if got, err := io.ReadAll(reader); err != nil || string(got) != "mine" {
		t.Errorf("found %q, %v", got, err)
	}
}
