package simulator

import (
	"encoding/json"
	"fmt"

	"github.com/caddy-doku/caddy-doku/simulator/internal/dialect"
)

// Behaviour is how DOKU behaves where its documents leave a choice, or contradict its own
// software. The zero value is the DOKU that most is known of: it takes what DOKU's own SDKs
// send, and answers as its pages show. It may change at any time; see
// [Simulator.SetBehaviour].
type Behaviour struct {
	// Strict holds callers to the letter of the documents, also where DOKU's own SDKs
	// differ from them:
	//
	//   - X-EXTERNAL-ID has 1 to 36 digits, also of a status call, and is new on its day
	//   - CHANNEL-ID has 1 to 5 letters and digits; only a status call needs none
	//   - X-TIMESTAMP has whole seconds, is not in the future, and not older than 10 minutes
	//   - paths are those of the current pages
	//   - a name has the documented characters, an amount two decimals (or is 0)
	//   - members without a value are left out, not empty
	//
	// Without it, a time may be 15 minutes old and, for clocks that are not quite right, 5
	// seconds in the future. DOKU documents no tolerance. Its PHP SDK dates a call back by
	// 7 seconds, so the future seems to be refused.
	Strict bool

	// Dialect is how DOKU reads a body before it hashes it. DOKU's pages do not say. Three of
	// DOKU's own SDKs sign another text than they send, and no dialect takes them all: Java
	// does that with the characters < > & = ', PHP with a slash or letters beyond ASCII, Python
	// with white space only.
	Dialect Dialect

	// NumberCodes, NumberAmounts and TextExpires turn the responseCode and the amounts of
	// answers into numbers, and expiresIn into a text: DOKU's pages show both forms.
	NumberCodes, NumberAmounts, TextExpires bool
}

// Dialect is a way to read and write JSON.
type Dialect string

// The dialects: a body as it is, without the white space between its tokens; or decoded and
// encoded again by the usual library of a language.
const (
	DialectAsSent     Dialect = ""
	DialectJava       Dialect = dialect.Java
	DialectJavaScript Dialect = dialect.JavaScript
	DialectPHP        Dialect = dialect.PHP
)

func (b Behaviour) validate() error {
	if b.Dialect != DialectAsSent && !dialect.Known(string(b.Dialect)) {
		return fmt.Errorf("simulator: expected one of the dialects, found %q", b.Dialect)
	}
	return nil
}

// SetBehaviour changes the behaviour from the next call on.
func (s *Simulator) SetBehaviour(b Behaviour) error {
	if err := b.validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Behaviour = b
	return nil
}

func (s *Simulator) behaviour() Behaviour {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.Behaviour
}

// read returns the bytes of a body that are hashed. A body that is not JSON stays.
func (b Behaviour) read(body []byte) []byte {
	if again := dialect.Rewrite(string(b.Dialect), body); again != nil {
		return again
	}
	return minify(body)
}

// render gives an answer the forms of b.
func (b Behaviour) render(answer map[string]any) {
	if code, isText := answer["responseCode"].(string); isText && b.NumberCodes {
		answer["responseCode"] = json.Number(code)
	}
	if life, given := answer["expiresIn"]; given && b.TextExpires {
		answer["expiresIn"] = fmt.Sprint(life)
	}
	if !b.NumberAmounts {
		return
	}
	if data, given := answer["virtualAccountData"].(map[string]any); given {
		answer["virtualAccountData"] = numberAmounts(data)
	}
}

// numberAmounts returns a copy of an object in which the amounts are numbers. The object
// itself is of a virtual account that DOKU holds.
func numberAmounts(object map[string]any) map[string]any {
	out := make(map[string]any, len(object))
	for name, value := range object {
		switch v := value.(type) {
		case map[string]any:
			value = numberAmounts(v)
		case string:
			if name == "value" || name == "minAmount" || name == "maxAmount" {
				value = json.Number(v)
			}
		}
		out[name] = value
	}
	return out
}
