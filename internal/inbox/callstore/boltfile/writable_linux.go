package boltfile

import (
	"fmt"
	"syscall"
)

// mayWrite is W_OK of access(2).
const mayWrite = 2

// writable returns an error if this user may not write to a path, or if its file system is
// read-only.
func writable(path string) error {
	if err := syscall.Access(path, mayWrite); err != nil {
		return fmt.Errorf("the user that runs this may not write to %s: %w", path, err)
	}
	return nil
}
