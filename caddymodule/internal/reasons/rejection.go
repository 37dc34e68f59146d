// Package reasons has one table of everything that can become of a call: the outcome
// in metrics, the `reason` in the log, the SNAP answer, and the hint for the operator.
// Metrics, hints and the tables in docs/operations.md come from it.
package reasons

import "github.com/caddy-doku/caddy-doku/snap"

// Rejection is why a call got no answer from the other side: the SNAP case to answer
// with, and the precise reason for the operator.
type Rejection struct {
	Case   snap.Case
	Reason string // one of this package's names
	Err    error  // for the log only
	Hint   string // what the operator can do; empty for the hint of the table

	// Message is the log line, if the usual one would say more than is known.
	Message string
}

func (r *Rejection) Error() string { return r.Err.Error() }
func (r *Rejection) Unwrap() error { return r.Err }

// Rejecter is an error that knows its rejection. A handler behind doku_verify returns
// one if the app did not get the call.
type Rejecter interface {
	error
	Rejection() *Rejection
}

// Reason is a row of the table.
type Reason struct {
	Name    string
	Case    snap.Case // of the sidecar's own answer; zero if the other side answers
	Owner   string    // who has to act; empty if nobody has to
	Meaning string    // for docs/operations.md
	Hint    string    // what the operator can do; empty if there is nothing to do
	Outside string    // the name in X-Doku-Error, if a stranger must not know the precise one
}

// Table has the reasons of one direction, in the order of the docs.
type Table []Reason

// Find returns the row with this name, or a zero row.
func (t Table) Find(name string) Reason {
	for _, row := range t {
		if row.Name == name {
			return row
		}
	}
	return Reason{}
}

// Names returns all names.
func (t Table) Names() []string {
	names := make([]string, len(t))
	for i, row := range t {
		names[i] = row.Name
	}
	return names
}

// Hint returns what the operator can do.
func (t Table) Hint(name string) string { return t.Find(name).Hint }

// Outside returns the name for X-Doku-Error.
func (t Table) Outside(name string) string {
	if outside := t.Find(name).Outside; outside != "" {
		return outside
	}
	return name
}

// Reject returns a rejection with the case of the row. detail is added to the case's
// message; it may be empty.
func (t Table) Reject(name, detail string, err error) *Rejection {
	c := t.Find(name).Case
	if detail != "" {
		c = c.With(detail)
	}
	return &Rejection{Case: c, Reason: name, Err: err}
}
