// Asks an endpoint by clickhouse-go over HTTP: `ask HOST:PORT DATABASE COMPRESSION`.  Prints a line for each thing
// asked, name and answer with a tab between.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

var methods = map[string]clickhouse.CompressionMethod{
	"none": clickhouse.CompressionNone, "lz4": clickhouse.CompressionLZ4, "lz4hc": clickhouse.CompressionLZ4HC,
	"zstd": clickhouse.CompressionZSTD, "gzip": clickhouse.CompressionGZIP, "deflate": clickhouse.CompressionDeflate,
	"br": clickhouse.CompressionBrotli,
}

func say(name string, value ...any) { fmt.Printf("%s\t%s", name, fmt.Sprintln(value...)) }

func fail(name string, err error) {
	var refused *clickhouse.Exception
	if errors.As(err, &refused) {
		say(name, refused.Code, refused.Message)
	} else {
		say(name, err)
	}
}

func main() {
	ctx := context.Background()
	connection, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{os.Args[1]}, Protocol: clickhouse.HTTP, Auth: clickhouse.Auth{Database: os.Args[2]},
		Compression: &clickhouse.Compression{Method: methods[os.Args[3]]},
		Settings:    clickhouse.Settings{"max_execution_time": 30, "log_comment": "tests"},
	})
	if err != nil {
		panic(err)
	}
	say("valid", connection.Ping(ctx) == nil)

	var number uint64
	var text, database string
	var at time.Time
	var none *uint8
	var list []uint8
	err = connection.QueryRow(ctx, "SELECT toUInt64(18446744073709551615), 'it''s', "+
		"toDateTime64('2026-01-02 03:04:05.678', 3, 'UTC'), NULL::Nullable(UInt8), [1, 2]").Scan(&number, &text, &at, &none, &list)
	say("types", number, text, at.Format("2006-01-02 15:04:05.000"), none == nil, list, err)

	err = connection.QueryRow(ctx, "SELECT $1 + 1, $2", 41, "it's").Scan(&number, &text)
	if err != nil {
		var small uint16
		err = connection.QueryRow(ctx, "SELECT $1 + 1, $2", 41, "it's").Scan(&small, &text)
		number = uint64(small)
	}
	say("parameters", number, text, err)
	err = connection.QueryRow(ctx, "SELECT currentDatabase(), {n:UInt64}", clickhouse.Named("n", "42")).Scan(&database, &number)
	say("named", database == os.Args[2], number, err)

	rows, err := connection.Query(ctx, "SELECT number, repeat('x', number % 300) FROM numbers(100000)")
	if err != nil {
		panic(err)
	}
	count, letters := 0, 0
	for rows.Next() {
		if err = rows.Scan(&number, &text); err != nil {
			panic(err)
		}
		count++
		letters += len(text)
	}
	say("large", count, letters, rows.Err())

	_, err = connection.Query(ctx, "SELECT nope FROM flows")
	fail("error", err)
	batch, err := connection.PrepareBatch(ctx, "INSERT INTO flows (vni)")
	if err == nil {
		if err = batch.Append(uint32(7)); err == nil {
			err = batch.Send()
		}
	}
	fail("insert", err)
	fail("exec", connection.Exec(ctx, "DROP TABLE flows"))
}
