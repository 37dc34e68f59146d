// Package pool shares values between the configuration in use and the next one. A
// value lives as long as anybody has a reference to it.
package pool

import (
	"errors"

	"github.com/caddyserver/caddy/v2"
)

// values has everything that outlives a reload: stores and inboxes, so that nothing
// kept is lost, and account runtimes, so that no token is fetched anew and waiting
// callers go on waiting.
var values = caddy.NewUsagePool()

// References are the values that an owner holds and must release. The zero value holds
// none. It is not safe for concurrent use.
type References struct{ keys []string }

// Acquire takes a reference to the value under key, or creates it.
func Acquire[T caddy.Destructor](r *References, key string, create func() (T, error)) (T, error) {
	value, _, err := values.LoadOrNew(key, func() (caddy.Destructor, error) { return create() })
	if err != nil {
		var none T
		return none, err
	}
	r.keys = append(r.keys, key)
	return value.(T), nil
}

// Retain takes a reference to a value that exists already.
func (r *References) Retain(key string) error {
	_, err := Acquire(r, key, func() (caddy.Destructor, error) { return nil, errClosed })
	return err
}

var errClosed = errors.New("it is closed already")

// Release releases all references. A value without any is destructed.
func (r *References) Release() error {
	var errs []error
	for _, key := range r.keys {
		_, err := values.Delete(key)
		errs = append(errs, err)
	}
	r.keys = nil
	return errors.Join(errs...)
}
