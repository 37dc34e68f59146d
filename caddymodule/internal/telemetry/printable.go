package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printable returns text that a terminal only shows. Control characters, characters
// that change the direction of text or are not visible, and invalid UTF-8 are escaped;
// line ends and tabs stay.
func Printable(text string) string {
	if isPrintable(text) {
		return text
	}
	var out strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd"):
			fmt.Fprintf(&out, `\x%02x`, text[i])
		case shown(r):
			out.WriteRune(r)
		case r < 1<<16:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			fmt.Fprintf(&out, `\U%08x`, r)
		}
	}
	return out.String()
}

func shown(r rune) bool { return r == '\n' || r == '\t' || strconv.IsPrint(r) }

func isPrintable(text string) bool {
	ascii := true
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= 0x7f {
			ascii = false
			break
		}
	}
	return ascii || utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !shown(r) }) < 0
}

// PrintableHandler escapes what a terminal could obey in the attributes of log lines:
// callers write part of them.
type PrintableHandler struct{ slog.Handler }

// Handle implements [slog.Handler].
func (h PrintableHandler) Handle(ctx context.Context, r slog.Record) error {
	odd := false
	r.Attrs(func(attr slog.Attr) bool {
		text, isText := textOf(attr.Value)
		odd = odd || isText && !isPrintable(text)
		return !odd
	})
	if odd {
		escaped := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
		r.Attrs(func(attr slog.Attr) bool {
			if text, isText := textOf(attr.Value); isText {
				attr.Value = slog.StringValue(Printable(text))
			}
			escaped.AddAttrs(attr)
			return true
		})
		r = escaped
	}
	return h.Handler.Handle(ctx, r)
}

// textOf returns the text that a log line has for a value.
func textOf(value slog.Value) (text string, isText bool) {
	switch value := value.Resolve(); value.Kind() {
	case slog.KindString:
		return value.String(), true
	case slog.KindAny:
		switch kept := value.Any().(type) {
		case error:
			return kept.Error(), true
		case fmt.Stringer:
			return kept.String(), true
		}
	}
	return "", false
}

// WithAttrs implements [slog.Handler].
func (h PrintableHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return PrintableHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements [slog.Handler].
func (h PrintableHandler) WithGroup(name string) slog.Handler {
	return PrintableHandler{h.Handler.WithGroup(name)}
}

// Log returns a logger of a module that escapes what callers write.
func Log(log *slog.Logger) *slog.Logger { return slog.New(PrintableHandler{log.Handler()}) }
