package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"
)

// HashName returns 32 hexadecimal digits that stand for a name in a key in Redis, since
// keys are not sealed.
//
// The hash has no secret. All sidecars must use the same key at any time, or two of them
// would do the same work at once; but while a secret is changed, they do not have the same
// secrets. So a person who can read Redis, and can guess an id, can check the guess.
func HashName(name string) string { return string(appendHash(nil, name)) }

func appendHash(to []byte, name string) []byte {
	var room [256]byte
	sum := sha256.Sum256(append(append(room[:0], "caddy-doku name v1\x00"...), name...))
	return hex.AppendEncode(to, sum[:16])
}

// nameOf returns the end of the keys in Redis for a key: the hash of its beginning in
// braces, which decides about the slot in a cluster, and the hash of all.
func nameOf(key string) string {
	if end := strings.IndexByte(key, '}'); end > 0 && key[0] == '{' {
		var room [80]byte
		name := append(appendHash(append(room[:0], '{'), key[:end+1]), "}:"...)
		return string(appendHash(name, key))
	}
	return HashName(key)
}

// value and lease return the keys in Redis of a value and of its lease.
func (r *Redis) value(key string) string { return r.prefix + "value:" + nameOf(key) }
func (r *Redis) lease(key string) string { return r.prefix + "lease:" + nameOf(key) }

// oldValue and oldLease return the keys that versions before this one use. They are read
// and never written: what those versions have kept lives for 48 h at most.
func (r *Redis) oldValue(key string) string { return r.prefix + "value:" + key }
func (r *Redis) oldLease(key string) string { return r.prefix + "lease:" + key }

// runBeside runs a script and, in the same round trip, gets the values of old keys, which
// are in one slot of a cluster, but not that of keys; nil for each that has none. The caller looks at the
// error of cmd if err is nil.
func (r *Redis) runBeside(
	ctx context.Context, script *redis.Script, keys []string, args []any, old ...string,
) (cmd *redis.Cmd, values [][]byte, err error) {
	for _, run := range []func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd{script.EvalSha, script.Eval} {
		pipe := r.client.Pipeline()
		cmd = run(ctx, pipe, keys, args...)
		found := pipe.MGet(ctx, old...)
		_, _ = pipe.Exec(ctx) // the error is that of one of the commands
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			continue
		}
		if err := cmd.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return nil, nil, failed(err)
		}
		if err := found.Err(); err != nil {
			return nil, nil, failed(err)
		}
		values = make([][]byte, len(old))
		for i, value := range found.Val() {
			if text, ok := value.(string); ok {
				values[i] = []byte(text)
			}
		}
		return cmd, values, nil
	}
	return nil, nil, failed(cmd.Err())
}
