package boltfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CheckPlace returns an error if there cannot be a file at a path. It makes, locks and writes
// nothing, so it may look at a file that is in use. The folder need not exist.
func CheckPlace(file string) error {
	folder := filepath.Dir(file)
	info, err := os.Stat(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return checkParent(folder)
	}
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("expected a folder, found %s: %s", kindOf(info.Mode()), folder)
	}
	if err := writable(folder); err != nil {
		return err
	}
	switch info, err = os.Stat(file); {
	case errors.Is(err, fs.ErrNotExist):
		return checkLink(file)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("expected a file, found %s: %s", kindOf(info.Mode()), file)
	}
	return writable(file)
}

// checkParent checks the nearest folder above that exists: the rest is made in it.
func checkParent(folder string) error {
	if err := checkLink(folder); err != nil {
		return err
	}
	parent := filepath.Dir(folder)
	info, err := os.Stat(parent)
	switch {
	case errors.Is(err, fs.ErrNotExist) && parent != folder:
		return checkParent(parent)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("expected a folder, found %s: %s", kindOf(info.Mode()), parent)
	}
	return writable(parent)
}

// checkLink returns an error if path, which leads to nothing, is a link: nothing can be
// made in its place.
func checkLink(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("it is a link that leads to nothing: %s", path)
	}
	return nil
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "a file"
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "something else"
}
