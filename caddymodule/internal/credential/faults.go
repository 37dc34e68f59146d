package credential

import "strings"

// Faults are the mistakes of a configuration. One error reports all of them, so that
// nobody has to correct one to learn of the next.
type Faults []error //nolint:errname,recvcheck // they are several; Add changes them

// Add adds err, unless it is nil.
func (f *Faults) Add(err error) {
	if more, several := err.(Faults); several { //nolint:errorlint // not of one that is wrapped
		*f = append(*f, more...)
	} else if err != nil {
		*f = append(*f, err)
	}
}

// Error returns what is wrong, in one line.
func (f Faults) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; and ")
}

// Unwrap implements the interface of [errors.Is].
func (f Faults) Unwrap() []error { return f }
