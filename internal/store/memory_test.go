package store

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func newMemory(t *testing.T) *Memory {
	t.Helper()
	m := NewMemory()
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestManyValuesOfAllSizesAreKeptApart(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	const many = 3000 // more than one block of addresses has
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 1+i*i%(textsSize/3)) }
	for i := range many {
		if err := m.Set(t.Context(), fmt.Sprint("key", i), value(i), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for i := range many {
		if got, err := m.Get(t.Context(), fmt.Sprint("key", i)); err != nil || !bytes.Equal(got, value(i)) {
			t.Fatalf("key%d: %d bytes, %v, expected %d", i, len(got), err, len(value(i)))
		}
	}
}

func TestWhatIsKeptExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		defer m.Close()
		ctx := context.Background()
		if err := m.Set(ctx, "value", []byte("x"), time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Claim(ctx, "a", time.Second, "lease"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second + 1)
		if c, err := m.Claim(ctx, "b", time.Second, "lease"); err != nil || !c.Held {
			t.Errorf("the lease has not expired: %+v, %v", c, err)
		}
		time.Sleep(time.Minute)
		if value, _ := m.Get(ctx, "value"); value != nil {
			t.Error("the value has not expired")
		}
	})
}
