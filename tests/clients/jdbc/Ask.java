import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;

/** Asks an endpoint by JDBC: `Ask URL DATABASE`.  Prints a line for each thing asked, name and answer with a tab between. */
public class Ask {
  static void say(String name, Object value) {
    System.out.println(name + "\t" + value);
  }

  static void fail(String name, SQLException error) {
    say(name, error.getErrorCode() + " " + error.getMessage().split("\n")[0]);
  }

  public static void main(String[] arguments) throws Exception {
    String database = arguments[1];
    try (Connection connection = DriverManager.getConnection(arguments[0]); Statement statement = connection.createStatement()) {
      say("valid", connection.isValid(10));
      ResultSet row = statement.executeQuery(
          "SELECT toUInt64(18446744073709551615), 'it''s', toDateTime64('2026-01-02 03:04:05.678', 3, 'UTC'), NULL, toIPv6('2001:db8::1'), [1, 2]");
      row.next();
      say("types", row.getString(1) + " " + row.getString(2) + " " + row.getString(3) + " " + row.getString(4) + " "
          + row.getString(5).replace("0:0:0:0:0:", ":") + " " + row.getString(6).replace(" ", ""));

      try (PreparedStatement prepared = connection.prepareStatement("SELECT ? + 1, ?")) {
        prepared.setInt(1, 41);
        prepared.setString(2, "it's");
        ResultSet found = prepared.executeQuery();
        found.next();
        say("parameters", found.getString(1) + " " + found.getString(2));
      }

      long rows = 0;
      long letters = 0;
      ResultSet large = statement.executeQuery("SELECT number, repeat('x', number % 300) FROM numbers(100000)");
      while (large.next()) {
        rows++;
        letters += large.getString(2).length();
      }
      say("large", rows + " " + letters);

      try {
        statement.executeQuery("SELECT nope FROM flows");
      } catch (SQLException error) {
        fail("error", error);
      }
      try (PreparedStatement insert = connection.prepareStatement("INSERT INTO flows (vni) VALUES (?)")) {
        insert.setLong(1, 7);
        insert.addBatch();
        insert.executeBatch();
      } catch (SQLException error) {
        fail("insert", error);
      }

      DatabaseMetaData about = connection.getMetaData();
      List<String> kinds = new ArrayList<>();
      for (String table : List.of("flows", "pair\\_metrics")) {
        ResultSet tables = about.getTables(null, database, table, null);
        while (tables.next()) kinds.add(tables.getString("TABLE_NAME") + " " + tables.getString("TABLE_TYPE"));
      }
      say("tables", String.join(", ", kinds));
      for (String[] column : new String[][] {{"flows", "vni"}, {"pair_metrics", "loss_ratio"}}) {
        ResultSet columns = about.getColumns(null, database, column[0], column[1]);
        columns.next();
        say(column[0] + "." + column[1], columns.getString("TYPE_NAME") + ": " + columns.getString("REMARKS"));
      }
      // As DBeaver lists tables.
      try (PreparedStatement list = connection.prepareStatement(
          "SELECT name as TABLE_NAME, engine as TABLE_TYPE, database as TABLE_SCHEM,comment as REMARKS, * FROM system.tables\n"
              + "WHERE database = ? and name=?")) {
        list.setString(1, database);
        list.setString(2, "flows");
        ResultSet found = list.executeQuery();
        found.next();
        say("dbeaver", found.getString("TABLE_NAME") + " " + found.getString("TABLE_TYPE"));
      }
    }
  }
}
